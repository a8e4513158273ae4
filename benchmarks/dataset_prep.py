"""How long data preparation takes and how much memory it needs, for n, n/2 and n/4 made rows.

    python benchmarks/dataset_prep.py --rows 25000 --out runs/benchmark-data.json

Rows are as long as the real ones (shared/data/README.md: 189 / 466 / 1532 characters a question, 2162 / 2994 / 3601 a
reasoning, 610 / 1407 / 2216 an answer; median, p95, max), their words those of the packaged sample in its own
frequencies, between stock phrases. Planted: 2% repeats, 2% near-duplicates, and one cluster, a fifth of all rows, that
shares its boilerplate and differs in a third of its words. Each size runs in a process of its own, so that its peak
memory is its own. Processor seconds stand beside the clock's, which others on the machine lengthen.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.config import Config
from helpers.dataset_prep.prepare import prepare
from helpers.files import read_jsonl, write_json, write_jsonl
from helpers.questions import choice_questions
from helpers.run_dir import open_run, versions
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
QUESTIONS = 1273  # MedQA's test set has as many


def make_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
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
    return [
        {
            "Question": " ".join(words),
            "Complex_CoT": " ".join(prose(2162, 0.2, 3600)),
            "Response": " ".join(prose(610, 0.5, 2216)),
        }
        for words in questions
    ]


def measure(count: int, model: str) -> dict:
    """One preparation of `count` rows in this process: seconds and peak memory after each step."""
    rows, marks = make_rows(count), []
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(Path(folder) / "rows.jsonl", rows)
        asked = choice_questions(["sample"])["sample"]
        text = [" ".join(row["Question"].split()[::-1]) for row in rows[:QUESTIONS]]
        made = [{**asked[k % len(asked)].model_dump(), "question": t, "id": str(k)} for k, t in enumerate(text)]
        write_jsonl(Path(folder) / "questions.jsonl", made)
        del rows, made, text
        overrides = {
            "data.source": f"{folder}/rows.jsonl",
            "evaluation.questions": [f"{folder}/questions.jsonl"],
            "evaluation.max_questions": None,
        }
        run = open_run("laptop", Path(folder) / "run", {**overrides, "model.max_length": 2048})
        tokenizer = load_tokenizer(model)
        began = last = time.perf_counter()
        processor = time.process_time()

        def mark(line: str) -> None:
            nonlocal last
            now = time.perf_counter()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            marks.append({"step": line.split(":")[0], "seconds": round(now - last, 2), "peak_rss_mb": peak})
            print(f"  {count:>6,} rows · {line} · peak {peak:,} MB", file=sys.stderr, flush=True)
            last = now

        report = prepare(run, tokenizer, mark)
    spent = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - processor}
    figures = {name: round(value, 2) for name, value in spent.items()} | {"peak_rss_mb": marks[-1]["peak_rss_mb"]}
    return {"rows": count, "steps": marks, **figures, "report": report}


def load_tokenizer(model: str):
    from helpers.models import loading as models

    return models.load_tokenizer(Config.resolve("laptop", {"model.name": model}).model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--model", default="embedded", help="whose tokenizer: embedded, tiny, a hub id or a folder")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.rows, options.model)))
        return
    runs = []
    for count in (options.rows // 4, options.rows // 2, options.rows):
        command = [sys.executable, __file__, "--one", "--rows", str(count), "--model", options.model]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(child.stdout.splitlines()[-1]))
    print(f"\n{'seconds':<18}" + "".join(f"{run['rows']:>10,}" for run in runs) + "   n / (n/4)")
    names = [step["step"] for step in runs[0]["steps"]]
    table = [(name, [run["steps"][k]["seconds"] for run in runs]) for k, name in enumerate(names)]
    table.append(("all", [run["seconds"] for run in runs]))
    table.append(("all, processor", [run["processor_seconds"] for run in runs]))
    for name, seconds in table:
        ratio = f"{seconds[-1] / seconds[0]:>12.1f}" if seconds[0] >= 0.05 else f"{'-':>12}"
        print(f"{name:<18}" + "".join(f"{value:>10.1f}" for value in seconds) + ratio)
    print(f"{'peak memory, MB':<18}" + "".join(f"{run['peak_rss_mb']:>10,}" for run in runs))
    if options.out:
        packages = {name: metadata.version(name) for name in ("numpy", "scipy", "scikit-learn", "tokenizers")}
        machine = {"platform": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
        machine["load_average"] = os.getloadavg()
        write_json(options.out.resolve(), {"machine": machine, "versions": versions() | packages, "runs": runs})


if __name__ == "__main__":
    main()
