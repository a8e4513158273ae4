"""Benchmarks from the hub, by rows made up here in the columns that the hub's tables have."""

import socket
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from helpers import InputError
from helpers.config import Config
from helpers.evaluation import evaluate as evaluation
from helpers.files import write_jsonl
from helpers.questions import BENCHMARKS, MMLU, benchmark_rows, choice_questions, question_commits
from helpers.run_dir import Run, open_run

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
    "id": "00aa-11bb",
    "question": "Made-up vitamin of the eye?",
    "opa": "A1",
    "opb": "B1",
    "opc": "C1",
    "opd": "D1",
    "cop": 3,
    "choice_type": "single",
    "exp": None,
    "subject_name": "Physiology",
    "topic_name": None,
}
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
ROWS = {"medqa": MEDQA, "medmcqa": MEDMCQA, "pubmedqa": PUBMEDQA, **{f"mmlu_{subject}": MMLU_ROW for subject in MMLU}}


def three(row):
    others = [{"id": f"other {k}"} if "id" in row else {"pubid": k} if "pubid" in row else {} for k in range(2)]
    return [row, *({**row, **other} for other in others)]


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
        return SimpleNamespace(to_list=rows.to_list, cache_files=files, info=rows.info)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    benchmark_rows.cache_clear()
    yield hub
    benchmark_rows.cache_clear()


def only(name):
    return choice_questions([name], 1)[name][0]


def test_each_benchmark_comes_from_its_split_at_a_commit(hub):
    tasks = choice_questions(["medqa", "medmcqa", "pubmedqa", "mmlu_medical"])
    assert list(tasks) == list(BENCHMARKS)
    assert [len(questions) for questions in tasks.values()] == [3] * 9
    assert hub.calls == [
        ("GBaker/MedQA-USMLE-4-options", None, "test", COMMIT),
        ("openlifescienceai/medmcqa", None, "validation", COMMIT),
        ("qiaojin/PubMedQA", "pqa_labeled", "train", COMMIT),
        ("cais/mmlu", "anatomy", "test", COMMIT),
        ("cais/mmlu", "clinical_knowledge", "test", COMMIT),
        ("cais/mmlu", "college_biology", "test", COMMIT),
        ("cais/mmlu", "college_medicine", "test", COMMIT),
        ("cais/mmlu", "medical_genetics", "test", COMMIT),
        ("cais/mmlu", "professional_medicine", "test", COMMIT),
    ]
    assert question_commits(["sample", "medqa"]) == {"medqa": COMMIT}
    choice_questions(["medqa"])
    assert len(hub.calls) == 9  # once a process


def test_a_row_of_medqa(hub):
    question = only("medqa")
    assert (question.id, question.question) == ("medqa-1", MEDQA["question"])
    assert (question.options, question.answer_idx, question.context) == (MEDQA["options"], "B", None)


def test_a_row_of_medmcqa_counts_its_answer_from_zero(hub):
    question = only("medmcqa")
    assert question.id == "00aa-11bb"
    assert (question.options, question.answer_idx) == ({"A": "A1", "B": "B1", "C": "C1", "D": "D1"}, "D")


def test_a_row_of_pubmedqa_has_the_abstract_before_it_and_three_options(hub):
    question = only("pubmedqa")
    assert question.id == "1234"
    assert (question.options, question.answer_idx) == ({"A": "yes", "B": "no", "C": "maybe"}, "C")
    assert question.as_prompt().startswith(
        "It was given to ten.\nNine got well.\n\nDoes a made-up drug help?\n\nA. yes"
    )


def test_a_row_of_mmlu(hub):
    question = only("mmlu_college_biology")
    assert question.id == "mmlu_college_biology-1"
    assert (question.options, question.answer_idx) == ({"A": "w", "B": "x", "C": "y", "D": "z"}, "C")


@pytest.mark.parametrize(
    ("name", "change"),
    [("medmcqa", {"cop": -1}), ("pubmedqa", {"final_decision": "perhaps"}), ("mmlu_anatomy", {"answer": -1})],
)
def test_a_hidden_answer_is_no_answer(hub, name, change):
    hub.rows[name] = [ROWS[name], {**ROWS[name], **change}]
    with pytest.raises(InputError, match=f"{name} line 2: answer_idx"):
        choice_questions([name])


def test_columns_that_have_changed_are_named(hub):
    hub.rows["medmcqa"] = [{key: value for key, value in MEDMCQA.items() if key != "opd"}]
    with pytest.raises(InputError, match=f"openlifescienceai/medmcqa at {COMMIT} has no 'opd'"):
        choice_questions(["medmcqa"])


def test_a_benchmark_without_a_network_is_one_line(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    benchmark_rows.cache_clear()
    with pytest.raises(InputError, match=r"cannot get GBaker/MedQA.*; a \.jsonl file of questions will do") as caught:
        choice_questions(["medqa"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("asked", "meant"), [("medqaa", "medqa"), ("mmlu_anatomi", "mmlu_anatomy"), ("q", "valid: ")])
def test_an_unknown_benchmark_is_told_before_any_folder_is_made(tmp_path, asked, meant):
    with pytest.raises(InputError, match=f"{asked!r} is no benchmark and no file.*{meant}"):
        open_run("smoke", tmp_path / "run", {"evaluation.questions": ["sample", asked]})
    assert not (tmp_path / "run").exists()


def test_a_group_and_one_of_its_subjects_are_not_asked_twice(hub):
    with pytest.raises(InputError, match="two evaluation tasks are named 'mmlu_anatomy'"):
        choice_questions(["mmlu_medical", "mmlu_anatomy"])


def test_a_file_may_not_take_the_name_of_the_unseen_rows(tmp_path):
    path = tmp_path / "validation.jsonl"
    write_jsonl(path, [{"id": "1", "question": "Q", "options": {"A": "x", "B": "y"}, "answer_idx": "A"}])
    with pytest.raises(InputError, match="two evaluation tasks are named 'validation'"):
        choice_questions([str(path)])


def test_a_benchmark_is_asked_as_a_task_of_its_name(hub, tmp_path, r1_tokenizer):
    run = Run(tmp_path, Config.resolve("smoke", {"evaluation.questions": ["pubmedqa", "medqa"]}))
    asked = evaluation.questions(run, r1_tokenizer, [{"Question": "Open?", "Response": "Yes."}])
    assert [question["task"] for question in asked] == ["validation", *["pubmedqa"] * 3, *["medqa"] * 3]
    assert [question["target"] for question in asked[3:]] == ["C", "B", "B", "B"]
    assert all(question["prompt"].endswith("<think>\n") for question in asked)
