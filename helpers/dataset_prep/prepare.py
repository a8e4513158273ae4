"""From a table of questions, reasoning and answers to the rows that are trained on, every dropped row counted.

In the order of notebook 03: read, validate, keep out, de-duplicate, split, fit, overlap, report. A rule takes rows and
returns (kept, dropped); `dropped` maps a readable reason to the source lines of the rows it took out. A row is a dict
with COLUMNS as they stand in the source, `line` (its line in the file; its number in a JSON list, a parquet file or
the hub) and `specialty` where there is one. No text is changed, but for tags around a whole reasoning (`unwrap`): it is
trained as it stands, spaces at its ends too.
"""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import numpy as np

from helpers import InputError
from helpers.config import Config
from helpers.dataset_prep.open_book import add_passages, corpus_rows
from helpers.dataset_prep.overlap import overlap, quantiles
from helpers.dataset_prep.similarity import groups, normalise, own_shingles, shared_shingles, similar_pairs
from helpers.files import atomic_dir, write_json, write_jsonl
from helpers.knowledge.library import open_library
from helpers.machine.hardware import cpu_cores
from helpers.models.loading import context_length
from helpers.prompts.encoding import encode_example, encode_prompt, special_strings
from helpers.prompts.families import END_THINK, THINK
from helpers.questions.multiple_choice import ChoiceQuestion, baseline_questions, choice_questions
from helpers.run_dir.folder import Run, alone, note_in_record
from helpers.sources.rows import COLUMNS, Row, fault, read_rows, seeded_rank
from helpers.tracking.progress import Progress

Dropped = dict[str, list[int]]


def unwrap(rows: list[Row]) -> tuple[list[Row], int]:
    """The rows without `<think>` and `</think>` around a whole reasoning (R1 data sets have them); and how many."""

    def bare(row: Row) -> Row:
        text = row["Complex_CoT"].strip() if isinstance(row["Complex_CoT"], str) else ""
        inside = text.removeprefix(THINK).removesuffix(END_THINK)
        if f"{THINK}{inside}{END_THINK}" != text or THINK in inside or END_THINK in inside:
            return row
        return row | {"Complex_CoT": inside.strip()}

    found = [*map(bare, rows)]
    return found, sum(one is not other for one, other in zip(found, rows, strict=True))


def validate(rows: list[Row], forbidden: frozenset[str]) -> tuple[list[Row], Dropped]:
    """Leave out rows that cannot be trained, by the first fault of each.

    `forbidden`: special-token strings, which only a question may hold: there they are encoded as plain text.
    """
    special = re.compile("|".join(map(re.escape, sorted(forbidden))) or "(?!)")

    def special_token(row: Row) -> str | None:
        columns = ((name, special.search(row[column])) for column, name in COLUMNS.items() if column != "Question")
        return next((f"special token in the {name}: {token[0]}" for name, token in columns if token), None)

    return _sieve(rows, [fault(row) or special_token(row) for row in rows])


def _sieve(rows: list[Row], faults: list[str | None]) -> tuple[list[Row], Dropped]:
    dropped: Dropped = {}
    for row, why in zip(rows, faults, strict=True):
        if why:
            dropped.setdefault(why, []).append(row["line"])
    return [row for row, why in zip(rows, faults, strict=True) if not why], dropped


def keep_out(
    rows: list[Row], questions: list[str], threshold: float, shared: Collection[str] = ()
) -> tuple[list[Row], Dropped]:
    """Leave out rows whose question is at least `threshold` like one of `questions` by its `own_shingles`."""
    asked = [own_shingles(question, shared) for question in questions]
    faults = []
    for row in rows:
        ours = own_shingles(row["Question"], shared)
        alike = any(len(ours & theirs) >= threshold * len(ours | theirs) - 1e-9 for theirs in asked)
        faults.append("like a question kept for the baseline" if alike else None)
    return _sieve(rows, faults)


def drop_exact(rows: list[Row]) -> tuple[list[Row], Dropped]:
    """Keep the first of the rows whose questions are the same after `normalise`, whatever their answers."""
    first: dict[int, int] = {}  # hash of a question to the number of its first row
    again = [first.setdefault(hash(normalise(row["Question"])), k) != k for k, row in enumerate(rows)]
    return _sieve(rows, ["same question as an earlier row" if repeated else None for repeated in again])


def drop_near(rows: list[Row], threshold: float, shared: Collection[str] = ()) -> tuple[list[Row], Dropped]:
    """Leave out a row whose question is at least `threshold` like that of an earlier row that was kept.

    So no two kept rows are that alike and every dropped one has a kept twin: of a chain a~b~c only b goes.
    """
    alive = np.ones(len(rows), dtype=bool)
    for first, second in similar_pairs(_questions(rows), threshold, alive, shared):
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            alive[j] &= not alive[i]  # pairs come in the order of j, so the fate of i is settled
    return _sieve(rows, [None if kept else "near-duplicate of an earlier row" for kept in alive])


def _questions(rows: list[Row]) -> list[str]:
    return [row["Question"] for row in rows]


def split(
    rows: list[Row],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    group_similarity: float = 0.3,
    shared: Collection[str] = (),
) -> list[Row]:
    """The rows, each with a `split` of train, validation or test, in a seeded order that only their content decides.

    Rows linked by pairs of `group_similarity` or more go to one side together. Groups go, in that order, to validation
    and test while they fit the room there (a share of all rows), the others to train. InputError when a side that
    training needs would be empty. 0.3: of 187 real rows one pair, a case told twice, has more (0.35 with what they
    share left out) and no other has 0.13.
    """
    group = groups(_questions(rows), group_similarity, shared)
    ordered = sorted(zip(rows, group.tolist(), strict=True), key=lambda pair: seeded_rank(pair[0], seed))
    sizes = Counter(label for _, label in ordered)  # counts in the order of first meeting
    room = {"validation": max(1, round(validation_fraction * len(rows))), "test": round(test_fraction * len(rows))}
    side: dict[int, str] = {}
    for label, size in sizes.items():
        side[label] = next((name for name in room if size <= room[name]), "train")
        if side[label] in room:
            room[side[label]] -= size
    if rows and "validation" not in side.values():
        side[min(sizes, key=sizes.__getitem__)] = "validation"
    if not {"train", "validation"} <= set(side.values()):
        why = (
            f": rows whose questions are {group_similarity} alike stay on one side, and these make one group; "
            "a higher data.group_similarity makes smaller groups of them"
        )
        raise InputError(f"rows left: {len(rows)}, too few to train and to validate{why if rows[1:] else ''}")
    return [row | {"split": side[label]} for row, label in ordered]


def fit(rows: list[Row], tokenizer: Any, max_length: int, style: str = "native") -> tuple[list[Row], Dropped]:
    """Leave out rows that `encode_example` cannot put into `max_length` tokens; InputError when none fits.

    After the split, so that a row's side does not depend on the model. Kept rows get their lengths in tokens.
    """

    def measure(row: Row) -> tuple[int, int]:
        labels = (encode_example(tokenizer, row, sys.maxsize, style) or {"labels": []})["labels"]
        return labels.count(-100), len(labels)

    sized, faults = [], []
    with Progress(len(rows), "rows encoded") as progress, ThreadPoolExecutor(cpu_cores()) as pool:
        # Tokenizers release the interpreter's lock. The first row goes alone: it sets the shared tokenizer up. Then so
        # many at once: a pool takes all it is given, with a lock for each.
        parts = (pool.map(measure, rows[start : start + 256]) for start in range(1, len(rows), 256))
        for row, (prompt, total) in zip(rows, chain(map(measure, rows[:1]), chain.from_iterable(parts)), strict=True):
            sized.append(row | {"prompt_tokens": prompt, "completion_tokens": total - prompt})
            too_long = f"longer than {max_length} tokens" if total > max_length else None
            faults.append(too_long if total else "special token, or a character that the vocabulary cannot spell")
            progress.update()
    shortest = min(filter(None, map(_total_tokens, sized)), default=0)
    if shortest > max_length:
        raise InputError(f"no row fits model.max_length = {max_length} tokens: the shortest has {shortest}")
    return _sieve(sized, faults)


def _total_tokens(row: Row) -> int:
    return row["prompt_tokens"] + row["completion_tokens"]


@alone
def prepare(run: Run, tokenizer: Any, progress: Callable[[str], object] | None = None) -> dict[str, Any]:
    """Prepare the data: write train, validation and test.jsonl and report.json to the run's data/; return the report.

    `progress` is called with a line after each step. The folder is written atomically at the end: an InputError leaves
    an older one unchanged.
    """
    config, data = run.config, run.config.data
    started = lap = time.monotonic()
    progress = progress or str
    alike, fractions = data.group_similarity, {"validation": data.validation_fraction, "test": data.test_fraction}
    tasks = choice_questions(config.evaluation.questions, config.evaluation.max_questions)
    _check_questions(tokenizer, tasks, config)
    rows, provenance = read_rows(data, config.seed)
    steps: list[dict[str, Any]] = []

    def note(rule: str, rows_in: int, reasons: dict[str, int], lines: Dropped) -> None:
        nonlocal lap
        seconds, lap = time.monotonic() - lap, time.monotonic()
        steps.append({"rule": rule, "rows_in": rows_in, "rows_out": len(rows), "reasons": reasons})
        steps[-1] |= {"lines": lines, "seconds": round(seconds, 2)}
        progress(f"{rule}: {len(rows):,} of {rows_in:,} rows, {seconds:.1f} s")
        if not rows:
            why = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
            raise InputError(f"{provenance['source']}: no row is left after the rule {rule!r}: {why}")

    not_drawn = provenance["rows"] - len(rows)
    note("read", provenance["rows"], {f"not in a random sample of {len(rows)}": not_drawn} if not_drawn else {}, {})
    rows, unwrapped = unwrap(rows)
    shared = shared_shingles([question for question in _questions(rows) if isinstance(question, str)])
    rules: dict[str, Callable[[list[Row]], tuple[list[Row], Dropped]]] = {
        "validate": lambda rows: validate(rows, special_strings(tokenizer)),
        # What is alike enough to stay together in the split is too alike to a question that training must not see.
        "keep out": lambda rows: keep_out(rows, baseline_questions(), min(alike, data.near_duplicate), shared),
        "exact duplicates": drop_exact,
        "near-duplicates": lambda rows: drop_near(rows, data.near_duplicate, shared),
        "split": lambda rows: (split(rows, *fractions.values(), config.seed, alike, shared), {}),
        "passages": lambda rows: (_open_book(run, rows, tokenizer), {}),
        "fit": lambda rows: fit(rows, tokenizer, config.model.max_length, config.model.prompt_style),
    }
    for name, rule in rules.items():
        try:
            rows_in, (rows, dropped) = len(rows), rule(rows)
        except InputError as error:
            raise InputError(f"{provenance['source']}: {error}{_left_out(steps)}") from None
        note(name, rows_in, {reason: len(lines) for reason, lines in dropped.items()}, dropped)
    splits = {name: [row for row in rows if row["split"] == name] for name in ("train", "validation", "test")}
    corpus = corpus_rows(data.corpus, config.seed) if data.corpus else []
    if not splits["train"] or not splits["validation"]:
        raise InputError(f"too few rows fit model.max_length = {config.model.max_length} to train and to validate")
    report = {
        "provenance": provenance,
        "steps": steps,
        "splits": {name: len(part) for name, part in splits.items()},
        "remarks": _remarks(unwrapped, shared, {name: len(part) for name, part in splits.items()}, fractions),
        "tokens": _token_picture(splits, config.model.max_length),
        "specialties": dict(Counter(row["specialty"] for row in rows if "specialty" in row).most_common()),
        "overlap": overlap(splits["train"], tasks),
        "open_book": dict(Counter(row["passages"]["beside"] for row in splits["train"] if "passages" in row)),
        "corpus": dict(Counter(row["split"] for row in corpus)),
    }
    report["seconds"] = round(time.monotonic() - started, 2)
    progress(f"overlap: {len(splits['train']):,} training rows with {', '.join(tasks)}, {time.monotonic() - lap:.1f} s")
    with atomic_dir(run / "data") as folder:
        for name, part in splits.items():
            with open(folder / f"{name}.jsonl", "w", encoding="utf-8", newline="\n") as handle:  # row by row
                handle.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in part)
        if corpus:
            write_jsonl(folder / "corpus.jsonl", corpus)
        write_json(folder / "report.json", report)
    note_in_record(run, data={**provenance, **report["splits"]})
    return report


def _open_book(run: Run, rows: list[Row], tokenizer: Any) -> list[Row]:
    """The rows, `data.passages` of the training ones with passages of the run's library."""
    config = run.config
    if not config.data.passages:
        return rows
    how = (config.data.passages, config.retrieval.k, config.seed, tokenizer)
    return add_passages(rows, open_library(run), *how, config.model.max_length, config.model.prompt_style)


def _check_questions(tokenizer: Any, tasks: dict[str, list[ChoiceQuestion]], config: Config) -> None:
    """InputError, before any training, for a question that the vocabulary cannot spell or the model cannot hold."""
    most = context_length(config.model)
    for task, questions in tasks.items():
        for question in questions:
            try:
                length = len(encode_prompt(tokenizer, question.as_prompt(), config.model.prompt_style))
            except InputError as error:
                raise InputError(f"{task}, question {question.id}: {error}") from None
            if most and length >= most:
                raise InputError(
                    f"{task}, question {question.id}: its prompt has {length:,} tokens, and the model has {most:,} "
                    "positions for prompt and reply"
                )


def _left_out(steps: list[dict[str, Any]]) -> str:
    """The rows left out so far by reason, to append to a message."""
    reasons = [f"{count} x {reason}" for step in steps for reason, count in step["reasons"].items()]
    return f" (of {steps[0]['rows_in']} rows: {', '.join(reasons)})" if reasons else ""


def _remarks(unwrapped: int, shared: dict[str, int], splits: dict[str, int], fractions: dict[str, float]) -> list[str]:
    """Sentences about the data that the rules' counts do not show."""
    remarks, total = [], sum(splits.values())
    if unwrapped:
        remarks.append(f"The tags around the reasoning, {THINK} and {END_THINK}, were taken off {unwrapped} x.")
    if shared:
        # A run at either end of a question holds blanks, which would puzzle a reader.
        inner = {shingle: count for shingle, count in shared.items() if shingle == shingle.strip()} or shared
        examples = ", ".join(f"'{shingle.strip()}' (in {count})" for shingle, count in islice(inner.items(), 5))
        remarks.append(
            f"{len(shared)} runs of three words stand in too many questions to make two of them alike: {examples}"
            f"{', ...' if len(shared) > min(5, len(inner)) else '.'}"
        )
    asked = {name: max(int(name == "validation"), round(fraction * total)) for name, fraction in fractions.items()}
    if any(not 0.5 * rows <= splits[name] <= 1.5 * rows + 1 for name, rows in asked.items()):
        found = ", ".join(f"{splits[name]} of {total} rows for {name} ({rows} asked)" for name, rows in asked.items())
        remarks.append(
            f"The split is not what was asked for: {found}. Rows with like questions stay on one side; a higher "
            "data.group_similarity makes smaller groups of them."
        )
    return remarks


def _token_picture(splits: dict[str, list[Row]], max_length: int) -> dict[str, Any]:
    """Quantiles of all rows' tokens, and for a histogram each split's rows in 40 equal bins up to `max_length`."""
    rows = [*chain(*splits.values())]
    edges = np.linspace(0, max_length, 41)
    bins = {name: np.histogram([*map(_total_tokens, part)], edges)[0].tolist() for name, part in splits.items()}
    return {
        "prompt": quantiles([row["prompt_tokens"] for row in rows]),
        "completion": quantiles([row["completion_tokens"] for row in rows]),
        "total": quantiles([*map(_total_tokens, rows)]),
        "histogram": {"edges": edges.round(1).tolist(), **bins},
    }
