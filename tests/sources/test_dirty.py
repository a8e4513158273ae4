"""Broken and hostile files: each is refused in one line when a folder is opened, or its rows are counted, none lost."""

import json
import time
from collections import Counter

import dirty_files
import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers import InputError
from helpers.config import Config
from helpers.dataset_prep.prepare import validate
from helpers.questions.multiple_choice import choice_questions
from helpers.run_dir.folder import open_run
from helpers.run_dir.source_check import check_sources
from helpers.sources.rows import COLUMNS, read_rows

SECONDS = 5  # of the processor


def put(case, folder):
    """The case's file in a folder of its own; the folder is made."""
    _, name, content, _ = case
    folder.mkdir()
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


def fault_of(case, folder, key, check):
    """What is wrong with how the case goes: what opening a run folder checks, then `check`. "" for nothing."""
    path, began = put(case, folder), time.process_time()
    try:
        config = Config.resolve("smoke", {key: str(path), "data.sample_size": None})
        check_sources(config, {key})
        json.dumps(config.flat(), ensure_ascii=False).encode()  # which a run records
        fault = check(config, case)
    except InputError as error:
        said = str(error)
        fault = "" if said.isprintable() and len(said) < 3100 else f"not a line to print: {said!r}"
    except Exception as error:  # what is looked for
        fault = f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - began
    return fault or (f"{seconds:.1f} s" if seconds > SECONDS else "")


def check_rows(config, case):
    """Rows kept and left out by reason are all the rows, and the planted ones are kept as they are."""
    rows, provenance = read_rows(config.data, 1)
    kept, dropped = validate(rows, frozenset({"</think>"}))
    counted = len(kept) + sum(map(len, dropped.values()))
    if counted != provenance["rows"]:
        return f"{counted} rows counted of {provenance['rows']}"
    json.dumps([dict(row) for row in kept], ensure_ascii=False).encode()
    there = Counter(tuple(row[column] for column in COLUMNS) for row in kept)
    lost = [k for k in range(case[3]) if not there[tuple(dirty_files.good_row(k).values())]]
    return f"lost good rows {lost}" if lost else ""


def check_questions(config, case):
    [questions] = choice_questions(config.evaluation.questions).values()
    json.dumps([each.model_dump() for each in questions], ensure_ascii=False).encode()
    shown = {(each.question, tuple(each.options.items()), each.answer_idx) for each in questions}
    wanted = map(dirty_files.good_question, range(case[3]))
    lost = [q["id"] for q in wanted if (q["question"], tuple(q["options"].items()), q["answer_idx"]) not in shown]
    return f"lost good questions {lost}" if lost else ""


ROLES = {"rows": ("data.source", check_rows), "questions": ("evaluation.questions", check_questions)}


def faults_of(cases, role, folder):
    found = {case[0]: fault_of(case, folder / str(k), *ROLES[role]) for k, case in enumerate(cases)}
    assert len(found) > 3
    return {name: fault for name, fault in found.items() if fault}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", ["texts", "tables", "parquets", "other_kinds", "places"])
def test_each_file_is_refused_in_one_line_or_counted(tmp_path, role, kind):
    assert faults_of(getattr(dirty_files, kind)(role), role, tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_a_small_file_that_stands_for_much_is_refused_or_counted(tmp_path, role):
    assert faults_of(dirty_files.bombs(role), role, tmp_path) == {}


def test_each_question_is_refused_in_one_line_or_kept(tmp_path):
    assert faults_of(dirty_files.question_values(), "questions", tmp_path) == {}


TWICE = {"parquet: a column twice", "csv: a column twice", "csv: a column twice but for a space"}


@pytest.mark.parametrize("role", ROLES)
def test_what_stands_twice_is_never_dropped_in_silence(tmp_path, role):
    cases = [case for case in [*dirty_files.tables(role), *dirty_files.parquets(role)] if case[0] in TWICE]
    assert len(cases) == len(TWICE)
    for number, case in enumerate(cases):
        assert fault_of(case, tmp_path / str(number), ROLES[role][0], lambda *_: "accepted") == ""


@pytest.mark.parametrize("column", [
    pa.array([2**30] * 4, pa.date32()), pa.array([2**62] * 4, pa.timestamp("us")),
    pa.array([2**62] * 4, pa.duration("s")), pa.array([1] * 4, pa.timestamp("us", tz="Mars/Phobos")),
], ids=["date", "time", "duration", "zone"])  # fmt: skip
def test_a_time_that_python_does_not_know_costs_no_row(tmp_path, column):
    rows = [dirty_files.good_row(k) for k in range(4)]
    parquet.write_table(pa.Table.from_pylist(rows).append_column("seen", column), tmp_path / "a.parquet")
    read, _ = read_rows(Config.resolve("smoke", {"data.source": str(tmp_path / "a.parquet")}).data, 1)
    assert [{name: row[name] for name in COLUMNS} for row in read] == rows


@pytest.mark.parametrize(("row", "good", "said"), [
    ({"Response": 3}, 0, r"rows that can be used: 0 of 5 \(5 x answer is not text\); to train and to validate takes 2"),
    ({"Question": "\ud800"}, 1, r"rows that can be used: 1 of 6 \(5 x invalid characters in the question\); "),
])  # fmt: skip
def test_rows_of_which_none_can_be_used_are_refused_at_opening(tmp_path, row, good, said):
    rows = [dirty_files.good_row(k) for k in range(good)] + [{**dirty_files.good_row(k), **row} for k in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    with pytest.raises(InputError, match=said):
        open_run("smoke", tmp_path / "run", {"data.source": str(tmp_path / "a.jsonl")})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("levels", "refused"), [(90, False), (150, True), (900, True), (985, True)])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_value_that_might_be_read_and_not_written_is_refused(tmp_path, name, levels, refused):
    """Python reads JSON some levels deeper than it writes it, and how many depends on where it is called."""
    rows = [dirty_files.good_row(k) for k in range(3)]
    deep = json.dumps(rows[2] | {"more": "@@"}).replace('"@@"', "[" * levels + "]" * levels)
    content = ",\n".join([*map(json.dumps, rows[:2]), deep])
    (tmp_path / name).write_text(f"[{content}]" if name == "a.json" else content.replace(",\n", "\n"))
    try:
        check_sources(Config.resolve("smoke", {"data.source": str(tmp_path / name)}), {"data.source"})
        assert not refused
    except InputError as error:
        assert refused
        assert "nested more than 100 levels deep" in str(error) or "recursion" in str(error)  # noqa: PT017
