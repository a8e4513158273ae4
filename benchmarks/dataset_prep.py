"""How long data preparation takes and how much memory it needs as the rows grow.

    python benchmarks/dataset_prep.py --rows 10000 30000 100000 --out runs/benchmark-data.json

Rows are as long as the real ones (shared/data/README.md: 189 / 466 / 1532 characters a question, 2162 / 2994 / 3601 a
reasoning, 610 / 1407 / 2216 an answer; median, p95, max), their words those of the packaged sample in its own
frequencies, between stock phrases. Planted: 2% repeats, 2% near-duplicates, and one cluster, a fifth of all rows, that
shares its boilerplate and differs in a third of its words. This process writes the rows; each size is prepared in one
of its own, so that its memory is its own: `peak_rss_mb` is the most in a step, `rss_mb` what is held after it (Linux).
Processor seconds stand beside the clock's, which others on the machine lengthen.
"""

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.config import Config
from helpers.dataset_prep.prepare import prepare
from helpers.files import read_jsonl, write_json, write_jsonl
from helpers.prompts.encoding import encode_prompt
from helpers.questions.multiple_choice import choice_questions
from helpers.run_dir.folder import open_run, versions
from helpers.sources.rows import SAMPLE

# Stock phrases in parts, so that a run of three words is about as frequent as in real questions: the commonest in 40%,
# the tenth in 8%, the twenty-fifth in 4% of them.
OPENINGS = ["presents with", "presents to the clinic with", "comes to the physician because of", "reports", "develops"]
WHO = ["man", "woman", "boy", "girl", "patient", "male", "female"]
LEADS = [
    "what is the most",
    "what would be the most",
    "which of the following is the most",
    "name the most",
    "state the",
]
HOW = ["likely", "probable", "appropriate", "common", "important", "effective"]
WHAT = ["diagnosis", "cause", "next step", "treatment", "investigation", "finding", "complication", "mechanism"]
KEYS = {"rss_mb": "VmRSS", "peak_rss_mb": "VmHWM"}
QUESTIONS = 1273  # MedQA's test set has as many


def make_rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """`count` rows in a random order; see the top of this file."""
    rng = random.Random(seed)
    pool = [word for row in read_jsonl(SAMPLE) for word in " ".join(row.values()).split()]

    def prose(median: float, spread: float, most: float) -> list[str]:
        characters = min(most, median * rng.lognormvariate(0, spread))
        return rng.choices(pool, k=max(3, round(characters / 6.7)))

    def question() -> list[str]:
        opening = ["A", str(rng.randint(1, 95)), "year-old", rng.choice(WHO), *rng.choice(OPENINGS).split()]
        closing = [*rng.choice(LEADS).split(), rng.choice(HOW), *f"{rng.choice(WHAT)}?".split()]
        return [
            *(opening if rng.random() < 0.4 else []),
            *prose(110, 0.6, 1400),
            *(closing if rng.random() < 0.6 else []),
        ]

    boilerplate = prose(250, 0.0, 250)
    questions: list[list[str]] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.02 and questions:
            questions.append(list(rng.choice(questions)))
        elif kind < 0.04 and questions:
            near = list(rng.choice(questions))
            near[rng.randrange(len(near))] = rng.choice(pool)
            questions.append(near)
        elif kind < 0.24:
            questions.append([*boilerplate, *prose(120, 0.0, 120)])
        else:
            questions.append(question())
    for words in questions:
        yield {
            "Question": " ".join(words),
            "Complex_CoT": " ".join(prose(2162, 0.2, 3600)),
            "Response": " ".join(prose(610, 0.5, 2216)),
        }


def write_source(folder: Path, count: int) -> None:
    """`rows.jsonl` and `questions.jsonl`, whose questions are rows' with the words reversed."""
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in make_rows(count))
    asked = choice_questions(["sample"])["sample"]
    with open(folder / "rows.jsonl", encoding="utf-8") as handle:
        text = [" ".join(json.loads(line)["Question"].split()[::-1]) for line in islice(handle, QUESTIONS)]
    made = [{**asked[k % len(asked)].model_dump(), "question": t, "id": str(k)} for k, t in enumerate(text)]
    write_jsonl(folder / "questions.jsonl", made)


def memory() -> dict[str, int]:
    """What this process holds now and the most since the last call, in MB."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    return {name: int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) // 1024 for name, key in KEYS.items()}


def measure(folder: Path, count: int, model: str) -> dict:
    """One preparation of the rows in `folder`, in this process: seconds and memory of each step."""
    overrides = {
        "data.source": f"{folder}/rows.jsonl",
        "data.sample_size": None,
        "evaluation.questions": [f"{folder}/questions.jsonl"],
        "evaluation.max_questions": None,
    }
    tokenizer = load_tokenizer(model)
    encode_prompt(tokenizer, "Which one?")
    marks = [{"step": "start", "seconds": 0.0, **memory()}]
    began = last = time.perf_counter()
    processor = time.process_time()

    def mark(line: str) -> None:
        nonlocal last
        now = time.perf_counter()
        marks.append({"step": line.split(":")[0], "seconds": round(now - last, 2), **memory()})
        print(f"  {count:>7,} rows · {line} · {marks[-1]}", file=sys.stderr, flush=True)
        last = now

    run = open_run("laptop", folder / "run", {**overrides, "model.max_length": 2048})
    mark("open")
    report = prepare(run, tokenizer, mark)
    mark("write")
    spent = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - processor}
    figures = {name: round(value, 2) for name, value in spent.items()}
    figures["peak_rss_mb"] = max(each["peak_rss_mb"] for each in marks)
    for step in report["steps"]:
        del step["lines"]
    del report["overlap"]
    return {
        "rows": count,
        "source_mb": (folder / "rows.jsonl").stat().st_size >> 20,
        "steps": marks,
        **figures,
        "report": report,
    }


def load_tokenizer(model: str):
    from helpers.models import loading as models

    return models.load_tokenizer(Config.resolve("laptop", {"model.name": model}).model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--model", default="embedded", help="whose tokenizer: embedded, tiny, a hub id or a folder")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure(options.folder, options.rows[0], options.model)))
        return
    runs = []
    for count in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_source(Path(folder), count)
            command = [sys.executable, __file__, "--folder", folder, "--rows", str(count), "--model", options.model]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(child.stdout.splitlines()[-1]))
    times = options.rows[-1] / options.rows[0]
    print(
        f"\n{'seconds':<18}" + "".join(f"{run['rows']:>10,}" for run in runs) + f"   times, of {times:.1f} x the rows"
    )
    names = [step["step"] for step in runs[0]["steps"]]
    table = [(name, [run["steps"][k]["seconds"] for run in runs]) for k, name in enumerate(names)]
    table.append(("all", [run["seconds"] for run in runs]))
    table.append(("all, processor", [run["processor_seconds"] for run in runs]))
    for name, seconds in table:
        ratio = f"{seconds[-1] / seconds[0]:>12.1f}" if seconds[0] >= 0.05 else f"{'-':>12}"
        print(f"{name:<18}" + "".join(f"{value:>10.1f}" for value in seconds) + ratio)
    print(f"{'peak memory, MB':<18}" + "".join(f"{run['peak_rss_mb']:>10,}" for run in runs))
    first, last = runs[0], runs[-1]
    growth = (last["peak_rss_mb"] - first["peak_rss_mb"]) / max(1, last["rows"] - first["rows"]) * 2**20
    print(f"{growth:,.0f} bytes more a row, whose text has {last['source_mb'] * 2**20 / last['rows']:,.0f}")
    if options.out:
        packages = {name: metadata.version(name) for name in ("numpy", "scipy", "scikit-learn", "tokenizers")}
        machine = {"platform": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
        machine["load_average"] = os.getloadavg()
        figures = {"machine": machine, "versions": versions() | packages, "bytes_a_row": round(growth), "runs": runs}
        write_json(options.out.resolve(), figures)


if __name__ == "__main__":
    main()
