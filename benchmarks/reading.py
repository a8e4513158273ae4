"""Training with passages, and on textbook text first, against training without; closed and open book.

    python benchmarks/reading.py SHARED OUT.json --variants rows passages text

SHARED holds `knowledge/` (OpenStax books) and `data/` (questions), see docs/RETRIEVAL.md. Rows: the packaged sample and
260 textbook questions, of the other 400 of which some are asked. The same steps on rows in each variant; `text` learns
two books as text before them. An H100 takes four to six minutes a variant with 200 questions a task.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import PROJECT_ROOT
from helpers.dataset_prep.prepare import prepare
from helpers.evaluation.evaluate import evaluate
from helpers.files import read_json, read_jsonl, write_json, write_jsonl
from helpers.lora_training.train import train
from helpers.machine.hardware import describe_machine
from helpers.models.loading import load_tokenizer
from helpers.questions.multiple_choice import ChoiceQuestion
from helpers.retrieval.reading import read_and_answer
from helpers.run_dir.folder import open_run, versions

BOOKS = ("anatomy-physiology", "microbiology", "nursing-external-bundle")
TRAINED = 260  # of the textbook questions
BASE_REPLIES = (
    "evaluation/.replies.base.jsonl",
    *(f"retrieval/.replies.base-{what}.jsonl" for what in ("closed", "thoughts", "open")),
)


def row_of(question: ChoiceQuestion) -> dict[str, str]:
    """A textbook question as a row: nobody has written a thought for it, so it has one line."""
    right = question.options[question.answer_idx]
    return {
        "Question": question.as_prompt(),
        "Complex_CoT": f"The statement that fits best is: {right}.",
        "Response": f"{right}.\n\nThe answer is ({question.answer_idx}).",
    }


def settings(shared: Path, work: Path, few: int, seed: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What all variants share, and what each adds."""
    asked = [ChoiceQuestion.model_validate(row) for row in read_jsonl(shared / "data/textbook_mcq_dev.jsonl")]
    random.Random(seed).shuffle(asked)
    sample = read_jsonl(PROJECT_ROOT / "helpers/data/sample.jsonl")
    kept = ("Question", "Complex_CoT", "Response")
    rows = [{key: row[key] for key in kept} for row in sample] + [row_of(q) for q in asked[:TRAINED]]
    write_jsonl(work / "rows.jsonl", rows)
    write_jsonl(work / "textbook.jsonl", [question.model_dump() for question in asked[TRAINED:]])
    for name, file in (("medqa", "medqa_dev_4opt_600"), ("pubmedqa", "pubmedqa_pqal_train_500")):
        shutil.copy(shared / f"data/{file}.jsonl", work / f"{name}.jsonl")
    asked_files = [str(work / f"{name}.jsonl") for name in ("textbook", "medqa", "pubmedqa")]
    books = [str(shared / f"knowledge/openstax-{name}") for name in BOOKS]
    common = {
        "seed": 3407 + seed, "model.max_length": 1536,
        "data.source": str(work / "rows.jsonl"), "data.sample_size": None,
        "retrieval.sources": [*books, "handbook"], "retrieval.k": 3, "retrieval.max_questions": None,
        "retrieval.conditions": ["open", "thought", "oracle"],
        "evaluation.questions": ["sample", *asked_files],
        "evaluation.max_questions": few, "tracking.wandb": "disabled",
        "generation.max_new_tokens": 200, "generation.batch_size": 256, "training.backend": "transformers",
        "training.batch_size": 8, "training.epochs": 3, "training.learning_rate": 1e-3, "training.warmup_steps": 10,
    }  # fmt: skip
    return common, {"rows": {}, "passages": {"data.passages": 0.5}, "text": {"data.corpus": books[:2]}}


def measure(work: Path, name: str, asked: dict[str, Any], first: Path | None) -> dict[str, Any]:
    """One variant from the rows to retrieval/metrics.json; the base model's replies are those of the first variant."""
    run = open_run("laptop", work / name, asked)
    clock = [time.monotonic()]
    report = prepare(run, load_tokenizer(run.config.model))
    clock.append(time.monotonic())
    trained = train(run)
    clock.append(time.monotonic())
    for file in BASE_REPLIES if first else ():
        (run / file).parent.mkdir(exist_ok=True)
        shutil.copy(first / file, run / file)
    evaluated = evaluate(run)
    clock.append(time.monotonic())
    read = read_and_answer(run)
    clock.append(time.monotonic())
    seconds = [after - before for before, after in pairwise(clock)]
    return {
        "settings": run.config.flat(),
        "rows": report["splits"], "open_book": report["open_book"], "corpus": report["corpus"],
        "training": trained, "validation": evaluated["validation"],
        **read,
        "seconds": dict(zip(("prepare", "train", "evaluate", "read"), seconds, strict=True)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variants", nargs="+", default=["rows", "passages", "text"])
    parser.add_argument("--questions", type=int, default=200, help="of each task")
    parser.add_argument("--seed", type=int, default=0, help="of training, and of which textbook questions are learnt")
    args = parser.parse_args()
    results = read_json(args.out) if args.out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        common, variants = settings(args.shared.resolve(), Path(folder), args.questions, args.seed)
        for name in args.variants:
            first = Path(folder) / args.variants[0] if name != args.variants[0] else None
            results[name] = measure(Path(folder), name, common | variants[name], first)
            machine = {"machine": describe_machine().model_dump(), "versions": versions()}
            write_json(args.out, results | machine)


if __name__ == "__main__":
    main()
