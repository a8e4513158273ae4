"""How long an index takes to build and to search, and what it needs, as the number of made abstracts grows; and what
the search finds in real books.

    python benchmarks/retrieval.py --documents 10000 100000 --out benchmarks/results/retrieval-cpu.json
    python benchmarks/retrieval.py --find SHARED --out benchmarks/results/finding-cpu.json

Abstracts have 120 to 280 words, drawn by Zipf's law from 200,000 made ones, and a title of 8 to 16. Questions: short
ones of 12 words and long ones of 111 (the median of a MedQA vignette), each drawn in the same way. Each size runs in a
process of its own, so that its peak memory is its own. Processor seconds stand beside the clock's, which others
lengthen.

SHARED holds `knowledge/` (OpenStax books) and `data/` (questions), see docs/RETRIEVAL.md: each packaged question to its
section, each textbook question to its module, each of PubMedQA's to its abstract, by the question. With --embedder (a
hub id or folder) ranks by meaning are fused with those by words; beside it, paired, stands the search by words alone.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.files import write_json
from helpers.knowledge import index as index_module
from helpers.knowledge.documents import Document, Section
from helpers.knowledge.index import Index
from helpers.knowledge.library import open_library
from helpers.questions.multiple_choice import choice_questions
from helpers.retrieval.finding import find, queries
from helpers.run_dir.folder import open_run

BOOKS = ("anatomy-physiology", "microbiology", "nursing-external-bundle")
VOCABULARY = 200_000
SYLLABLES = [
    a + b for a in ("b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t") for b in ("a", "e", "i", "o", "u")
]


class Words:
    """Made words, the n-th of them with a frequency of about 1/n."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        shares = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
        self.shares = shares / shares[-1]
        self.words = np.array([self.word(n) for n in range(VOCABULARY)], dtype=object)

    @staticmethod
    def word(number: int) -> str:
        made = ""
        while True:
            number, part = divmod(number, len(SYLLABLES))
            made += SYLLABLES[part]
            if not number:
                return made

    def draw(self, count: int) -> str:
        return " ".join(self.words[np.searchsorted(self.shares, self.rng.random(count))])


def abstracts(count: int, seed: int = 0) -> Iterator[Document]:
    """`count` documents, one at a time."""
    words = Words(seed)
    for number in range(count):
        title = words.draw(int(words.rng.integers(8, 17)))
        text = ". ".join(words.draw(20) for _ in range(int(words.rng.integers(6, 15)))) + "."
        yield Document(str(number), [Section((title,), [text])], "made", version="1")


def asked(index: Index, words: Words, length: int, count: int) -> dict[str, float]:
    """Milliseconds a question, warmed up by five."""
    spent = []
    for question in [words.draw(length) for _ in range(count + 5)]:
        began = time.perf_counter()
        index.search(question, 10)
        spent.append(1000 * (time.perf_counter() - began))
    spent = sorted(spent[5:])
    return {"median_ms": round(statistics.median(spent), 1), "p95_ms": round(spent[int(0.95 * count)], 1)}


def measure(count: int) -> dict:
    """One index of `count` abstracts, made and searched in this process."""
    folder = Path(tempfile.mkdtemp(prefix="retrieval-"))
    try:
        began = time.perf_counter()
        for _ in abstracts(min(count, 10_000)):
            pass
        making = (time.perf_counter() - began) * count / min(count, 10_000)
        index, began, processor = Index(folder / "index.sqlite"), time.perf_counter(), time.process_time()
        added = index.add(abstracts(count))
        figures = {"documents": count, "passages": added.passages, "seconds": round(time.perf_counter() - began, 1)}
        figures["processor_seconds"] = round(time.process_time() - processor, 1)
        figures["of_which_making_abstracts"] = round(making, 1)
        figures["sqlite_mb"] = index.path.stat().st_size >> 20
        figures["tantivy_mb"] = sum(f.stat().st_size for f in index.folder.glob("*")) >> 20
        print(f"{count:,} built: {figures}", file=sys.stderr, flush=True)
        words, questions = Words(1), 50
        figures["short"], figures["long"] = asked(index, words, 12, questions), asked(index, words, 111, questions)
        figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        shutil.rmtree(index.folder, ignore_errors=True)
        index.close()
        few = 10 if count > 200_000 else questions
        figures["sqlite_only"] = {"short": asked(index, words, 12, few), "long": asked(index, words, 111, few)}
        return figures
    finally:
        shutil.rmtree(folder)


def measure_finding(shared: Path, embedder: str | None) -> dict[str, Any]:
    """hit@1, 5 and 10 and MRR of each task, with intervals, in one library of the books, handbook and abstracts."""
    data = shared.resolve() / "data"
    files = [str(data / f"{name}.jsonl") for name in ("textbook_mcq_dev", "pubmedqa_pqal_train_500")]
    books = [str(shared.resolve() / f"knowledge/openstax-{name}") for name in BOOKS]
    asked = {"retrieval.sources": [*books, "handbook"], "retrieval.embedder": embedder}
    with tempfile.TemporaryDirectory() as folder:
        tasks = choice_questions(["sample", *files])
        library = open_library(open_run("laptop", Path(folder) / "run", asked), chain.from_iterable(tasks.values()))
        ways = queries(library, {})
        found = {task: find(library, questions, ways) for task, questions in tasks.items()}
        index = {"documents": library.index.documents, "passages": len(library.index)}
    return {"embedder": embedder and Path(embedder).name, "index": index, "finding": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--find", type=Path, metavar="SHARED", help="measure what is found there instead")
    parser.add_argument("--embedder", help="with --find: a hub id or folder")
    options = parser.parse_args()
    if options.find:
        figures = measure_finding(options.find, options.embedder)
        print(json.dumps(figures, indent=1))
        if options.out:
            write_json(options.out.resolve(), figures)
        return
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    runs = []
    for count in options.documents:
        command = [sys.executable, __file__, "--one", str(count)]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(child.stdout.splitlines()[-1]))
        print(json.dumps(runs[-1]), flush=True)
        if options.out:
            packages = {"sqlite": sqlite3.sqlite_version, "tantivy": metadata.version("tantivy")}
            machine = {"platform": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
            machine["load_average"] = os.getloadavg()
            settings = {"LARGE": index_module.LARGE, "python": platform.python_version()}
            write_json(
                options.out.resolve(), {"machine": machine, "versions": packages, "settings": settings, "runs": runs}
            )


if __name__ == "__main__":
    main()
