"""Benchmarks from the hub, by rows made up here in the columns that the hub's tables have."""

import json
import re
import socket
from dataclasses import replace
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from conftest import fails, refusal

from helpers import PROJECT_ROOT, InputError
from helpers.config import Config
from helpers.evaluation import evaluate as evaluation
from helpers.files import write_jsonl, write_text
from helpers.questions.benchmarks import BENCHMARKS, GROUPS, MMLU_MEDICAL
from helpers.questions.multiple_choice import (
    ChoiceQuestion,
    baseline_questions,
    benchmark_rows,
    choice_questions,
    question_commits,
)
from helpers.run_dir.folder import Run, open_run
from helpers.scoring.choice import extract_choice

SHARED = PROJECT_ROOT.parent / "shared" / "data"
LETTERS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Dabigatran"}
COMMIT = "c" * 40
MEDQA = {
    "question": "A made-up case. Which step is next?",
    "answer": "Wait",
    "options": {"A": "Operate", "B": "Wait", "C": "Scan", "D": "Bleed"},
    "meta_info": "step1",
    "answer_idx": "B",
    "metamap_phrases": ["a case"],
}
MEDMCQA = {
    "id": "00aa-11bb", "question": "Made-up vitamin of the eye?", "opa": "A1", "opb": "B1", "opc": "C1", "opd": "D1",
    "cop": 3, "choice_type": "single", "exp": None, "subject_name": "Physiology", "topic_name": None,
}  # fmt: skip
PUBMEDQA = {
    "pubid": 1234,
    "question": "Does a made-up drug help?",
    "context": {
        "contexts": ["It was given to ten.", "Nine got well."],
        "labels": ["METHODS", "RESULTS"],
        "meshes": ["Drugs"],
        "reasoning_required_pred": ["m"],
        "reasoning_free_pred": ["y"],
    },
    "long_answer": "It may.",
    "final_decision": "maybe",
}
MMLU_ROW = {"question": "Which made-up bone?", "subject": "anatomy", "choices": ["w", "x", "y", "z"], "answer": 2}
ROWS = {
    "medqa": MEDQA,
    "medmcqa": MEDMCQA,
    "pubmedqa": PUBMEDQA,
    **{f"mmlu_{subject}": MMLU_ROW for subject in MMLU_MEDICAL},
}
# What must become of each: id, question, options, right letter.
QUESTIONS = {
    "medqa": ("medqa-1", MEDQA["question"], MEDQA["options"], "B"),
    "medmcqa": ("00aa-11bb", MEDMCQA["question"], {"A": "A1", "B": "B1", "C": "C1", "D": "D1"}, "D"),
    "pubmedqa": ("1234", PUBMEDQA["question"], {"A": "yes", "B": "no", "C": "maybe"}, "C"),
    **{
        f"mmlu_{subject}": (f"mmlu_{subject}-1", MMLU_ROW["question"], {"A": "w", "B": "x", "C": "y", "D": "z"}, "C")
        for subject in MMLU_MEDICAL
    },
}


def three(row):
    """The row and two more, with ids of their own where it has one."""
    ids = [name for name in row if name.endswith("id")]
    return [row, *({**row, **{name: type(row[name])(k) for name in ids}} for k in range(2))]


class Table(list):
    def __init__(self, rows, cache_files, info):
        super().__init__(rows)
        self.cache_files, self.info = cache_files, info


@pytest.fixture
def hub(monkeypatch):
    """A hub that has the rows above, `three` of each; its `rows` can be changed, `calls` are what was asked of it."""
    hub = SimpleNamespace(rows={name: three(row) for name, row in ROWS.items()}, calls=[])

    def dataset_info(self, repo_id, *, revision=None, timeout=None):
        return huggingface_hub.hf_api.DatasetInfo(id=repo_id, sha=COMMIT, siblings=[], tags=[])

    def load_dataset(path, name, *, split, revision):
        hub.calls.append((path, name, split, revision))
        [found] = [key for key, b in BENCHMARKS.items() if (b.dataset, b.config, b.split) == (path, name, split)]
        rows = datasets.Dataset.from_list(hub.rows[found])
        files = [{"filename": f"/cache/{path}/{name}/0.0.0/{revision}/rows-{split}.arrow"}]
        return Table(rows.to_list(), files, rows.info)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    benchmark_rows.cache_clear()
    yield hub
    benchmark_rows.cache_clear()


def only(name):
    return choice_questions([name], 1)[name][0]


def test_each_benchmark_comes_from_its_split_at_a_commit(hub):
    tasks = choice_questions([*BENCHMARKS])
    assert list(tasks) == list(BENCHMARKS)
    assert {len(questions) for questions in tasks.values()} == {3}
    assert not [question.id for questions in tasks.values() for question in questions if "#" in question.id]
    assert hub.calls == [(each.dataset, each.config, each.split, COMMIT) for each in BENCHMARKS.values()]
    assert ("GBaker/MedQA-USMLE-4-options", None, "test", COMMIT) in hub.calls
    assert question_commits(["sample", "medqa"]) == {"medqa": COMMIT}
    choice_questions(["medqa"])
    assert len(hub.calls) == len(BENCHMARKS)  # once a process


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_of_each_benchmark(hub, name):
    question = only(name)
    assert (question.id, question.question, question.options, question.answer_idx) == QUESTIONS[name]
    asked = question.as_prompt().split("\n\n")
    assert asked[-3] == question.question
    assert asked[:-3] == (["It was given to ten.\nNine got well."] if name == "pubmedqa" else [])


@pytest.mark.parametrize(
    ("name", "change"),
    [("medmcqa", {"cop": -1}), ("pubmedqa", {"final_decision": "perhaps"}), ("mmlu_anatomy", {"answer": -1})],
)
def test_a_hidden_answer_is_no_answer(hub, name, change):
    hub.rows[name] = [ROWS[name], {**ROWS[name], **change}]
    with pytest.raises(InputError, match=f"{name} row 2: .*answer_idx"):
        choice_questions([name])


def test_a_benchmark_may_leave_rows_out_and_errors_count_the_hubs_rows(hub, monkeypatch):
    """As a subset of a split, MMLU-Pro's health."""
    whole = BENCHMARKS["mmlu_anatomy"]

    def health(row):
        return whole.question(row) if row["subject"] == "health" else None

    monkeypatch.setitem(BENCHMARKS, "mmlu_anatomy", replace(whole, question=health))
    rows = [MMLU_ROW | {"subject": subject} for subject in ("law", "health", "law", "health", "law")]
    hub.rows["mmlu_anatomy"] = rows
    assert [each.id for each in choice_questions(["mmlu_anatomy"])["mmlu_anatomy"]] == [
        "mmlu_anatomy-2",
        "mmlu_anatomy-4",
    ]
    hub.rows["mmlu_anatomy"] = [*rows, {**MMLU_ROW, "subject": "health", "answer": -1}]
    benchmark_rows.cache_clear()
    with pytest.raises(InputError, match=r"mmlu_anatomy row 6: .*answer_idx"):
        choice_questions(["mmlu_anatomy"])
    hub.rows["mmlu_anatomy"] = rows[:1]
    benchmark_rows.cache_clear()
    with pytest.raises(InputError, match="mmlu_anatomy holds no questions"):
        choice_questions(["mmlu_anatomy"])


def test_the_lists_of_names_for_users_have_every_benchmark():
    grouped = {name for group in GROUPS.values() for name in group}
    names = {*BENCHMARKS, *GROUPS} - grouped
    profiles = (PROJECT_ROOT / "helpers/profiles.yaml").read_text(encoding="utf-8")
    [setting] = [line for line in profiles.splitlines() if line.startswith("evaluation.questions:")]
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.partition("evaluation.questions=[")[2].partition("]")[0]
    for where, text in (("helpers/profiles.yaml", setting.partition("#")[2]), ("README.md", example)):
        assert names - set(re.findall(r"\w+", text)) == set(), where


def test_columns_that_have_changed_are_named(hub):
    hub.rows["medmcqa"] = [{key: value for key, value in MEDMCQA.items() if key != "opd"}]
    with pytest.raises(InputError, match=f"openlifescienceai/medmcqa at {COMMIT} has no 'opd'"):
        choice_questions(["medmcqa"])
    hub.rows["medmcqa"] = [MEDMCQA | {"cop": [1]}]
    benchmark_rows.cache_clear()
    with pytest.raises(InputError, match=r"cannot be read \(unhashable type: 'list'\): its columns have changed"):
        choice_questions(["medmcqa"])


def test_a_benchmark_without_a_network_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "getaddrinfo", fails(socket.gaierror(-2, "Name or service not known")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    benchmark_rows.cache_clear()
    assert re.search(r"cannot get GBaker/MedQA.*; a \.jsonl file of questions will do", refused("medqa"))


@pytest.mark.parametrize(("asked", "meant"), [("medqaa", "medqa"), ("mmlu_anatomi", "mmlu_anatomy"), ("q", "valid: ")])
def test_an_unknown_benchmark_is_told_before_any_folder_is_made(tmp_path, asked, meant):
    with pytest.raises(InputError, match=f"{asked!r} is neither a benchmark nor a file.*{meant}"):
        open_run("smoke", tmp_path / "run", {"evaluation.questions": ["sample", asked]})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (["mmlu_medical", "mmlu_anatomy"], "mmlu_anatomy"),
        (["my.set.jsonl", "./my.set.jsonl"], "my.set"),
        (["validation.jsonl"], "validation"),  # the task of the unseen rows
    ],
)
def test_no_two_tasks_have_one_name(hub, file, sources, name):
    sources = [file(GOOD, name=source) if source.endswith(".jsonl") else source for source in sources]
    assert f"two evaluation tasks are named '{name}'" in refused(*sources)


def test_a_benchmark_is_asked_as_a_task_of_its_name(hub, tmp_path):
    run = Run(tmp_path, Config.resolve("smoke", {"evaluation.questions": ["pubmedqa", "medqa"]}))
    write_jsonl(tmp_path / "data/validation.jsonl", [{"Question": "Open?", "Response": "Yes."}])
    asked = evaluation.questions(run)
    assert [question["task"] for question in asked] == ["validation", *["pubmedqa"] * 3, *["medqa"] * 3]
    assert [question["target"] for question in asked[3:]] == ["C", "B", "B", "B"]


# Files and the package ---

GOOD = {"id": "q1", "question": "Which drug?", "options": LETTERS, "answer_idx": "C"}


@pytest.fixture
def file(tmp_path):
    def write(*rows, name="mine.jsonl", blank=""):
        path = tmp_path / name
        write_text(path, blank + "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


def refused(*sources) -> str:
    return refusal(choice_questions, [*sources])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real questions in ../shared/data are not here")
def test_the_real_question_files_are_read_whole():
    names = {"medqa_dev_4opt_600": 600, "medmcqa_dev_600": 600, "pubmedqa_pqal_train_500": 500}
    tasks = choice_questions([str(SHARED / f"{name}.jsonl") for name in names])
    assert {name: len(questions) for name, questions in tasks.items()} == names
    assert all(q.as_prompt().startswith(q.context) for q in tasks["pubmedqa_pqal_train_500"])


def test_the_packaged_questions_have_four_options_each_and_no_favourite_letter():
    questions = choice_questions(["sample"])["sample"]
    assert len(questions) >= 60
    assert len({q.id for q in questions}) == len({q.question for q in questions}) == len(questions)
    assert all(list(q.options) == list("ABCD") and len(set(q.options.values())) == 4 for q in questions)
    counts = [sum(q.answer_idx == letter for q in questions) for letter in "ABCD"]
    assert max(counts) <= 0.35 * len(questions)
    assert not {q.question for q in questions} & set(baseline_questions())


def test_a_prompt_holds_context_question_options_and_how_to_answer():
    question = ChoiceQuestion(**GOOD, context="An abstract.")
    prompt = question.as_prompt()
    ending = "End with one line: The answer is (A), (B), (C) or (D)."
    parts = ["An abstract.", "Which drug?", "A. Aspirin\nB. Heparin\nC. Warfarin\nD. Dabigatran", ending]
    assert [prompt.index(part) for part in parts] == sorted(prompt.index(part) for part in parts)
    assert prompt.endswith(ending)
    assert ChoiceQuestion(**GOOD).as_prompt() == prompt.removeprefix("An abstract.\n\n")
    assert extract_choice(f"</think>{prompt}", GOOD["options"]) is None  # a reply that copies it answers nothing


def test_a_file_is_a_task_named_by_its_stem_and_cut_to_the_limit(file):
    path = file(GOOD, {**GOOD, "id": "q2"}, {**GOOD, "id": "q3"}, name="my.set.jsonl")
    assert [q.id for q in choice_questions([path], 2)["my.set"]] == ["q1", "q2"]
    assert list(choice_questions(["sample", path])) == ["sample", "my.set"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer_idx": "E"}, "'E' is not among the options A, B, C, D"),
        ({"answer_idx": "c"}, "'c' is not among the options"),
        ({"answer_idx": None}, "answer_idx"),
        ({"question": ""}, "question"),
        ({"question": None}, "question"),
        ({"id": ["q2"]}, "id: Input should be a valid string"),
        ({"id": True}, "id: Input should be a valid string"),
        ({"id": "a\ud800"}, "id: half a character"),
        ({"options": {"A": "a\udfff", "B": "b"}}, "options.A: half a character"),
        ({"options": {"A": "one"}, "answer_idx": "A"}, "options"),
        ({"options": ["one", "two"], "answer_idx": "three"}, "'three' is not among the options A, B"),
        ({"options": [["one"], "two"], "answer_idx": ["one"]}, "options.A: Input should be a valid string"),
        ({"options": ["one", "two"], "answer_idx": {"one": 1}}, "answer_idx: Input should be a valid string"),
        ({"options": ["one", "two"], "answer_idx": 1}, "answer_idx 1 may count from 0 or from 1"),
        ({"options": ["1", "2", "3"], "answer_idx": 3}, "answer_idx 3 may count from 0 or from 1"),
        ({"options": ["one", "one", "two"], "answer_idx": "one"}, "'one' is the text of A and B: give the letter"),
        ({"options": "one, two"}, "options"),
        ({"options": {"A": "one", "B": 2.5}}, "options.B"),
        ({"options": {"1": "one", "2": "two"}, "answer_idx": "1"}, "letters from A to Z, not '1', '2'"),
        ({"options": {"A": "one", "a": "two"}, "answer_idx": "A"}, "distinct letters"),
        ({"options": {"A)": "one", "B)": "two"}, "answer_idx": "A)"}, "letters from A to Z"),
    ],
)
def test_a_bad_question_is_named_with_its_file_and_line(file, change, says):
    path = file(GOOD, "", {**GOOD, "id": "q2", **change}, blank="\n\n")  # blank lines count as lines
    message = refused(path)
    assert message.startswith(f"{path} line 5: ")
    assert says in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no questions"),
        (json.dumps(GOOD).encode() + b"\n\n{oops}\n", "line 3: not JSON"),
        (b"[1, 2]\n", "1: int instead of an object"),
    ],
)
def test_a_bad_file_of_questions_is_named(tmp_path, content, says):
    """By the reader of rows, whose every fault is in test_prepare."""
    (tmp_path / "bad.jsonl").write_bytes(content)
    message = refused(str(tmp_path / "bad.jsonl"))
    assert "bad.jsonl" in message
    assert says in message


@pytest.mark.parametrize(
    ("ids", "told_apart"),
    [
        (["q1", "q1#2", "q1", "q1"], ["q1", "q1#2", "q1#3", "q1#4"]),  # OpenStax's books number each chapter anew
        ([2, None], ["2", "2#2"]),  # a missing one is the line's number
        ([70, 0.5, None, ""], ["70", "0.5", "3", "4"]),
    ],
)
def test_ids_are_told_apart_and_may_be_numbers_or_missing(file, ids, told_apart):
    path = file(*({**GOOD, "id": each} for each in ids))
    assert [q.id for q in choice_questions([path])["mine"]] == told_apart


def test_control_characters_of_a_question_become_spaces(file):
    [question] = choice_questions([file({**GOOD, "question": "Which\x0cdrug\x13?\n", "context": "a\x85b"})])["mine"]
    assert (question.question, question.context) == ("Which drug ?\n", "a b")


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["Aspirin", "Heparin"], "B", "B"),
        (["Aspirin", "Heparin"], "Heparin", "B"),
        ({"A": "Aspirin", "B": "Heparin"}, "Heparin", "B"),
        ({"A": "B", "B": "A"}, "A", "A"),
        ([5, 10, 20], 20, "C"),
        ({"A": 5, "B": 10, "C": None}, 10, "B"),
    ],
)
def test_options_may_be_a_list_and_the_answer_an_options_text(file, options, answer, letter):
    [question] = choice_questions([file({**GOOD, "options": options, "answer_idx": answer})])["mine"]
    assert question.answer_idx == letter
    texts = options if isinstance(options, list) else [text for text in options.values() if text is not None]
    assert question.options == dict(zip("ABC", map(str, texts), strict=False))


def test_odd_line_separators_inside_a_question_are_kept(file):
    path = file(json.dumps({**GOOD, "question": "a\u2028b\u0085c"}, ensure_ascii=False))
    assert choice_questions([path])["mine"][0].question == "a\u2028b c"  # U+0085 is a control character
