"""Asking one question or a file of them, on the command line too, where it is to pipe well."""

import io
import json
import runpy
import sys

import pytest
from fake_server import Server

from helpers import PROJECT_ROOT, InputError
from helpers.config import Config
from helpers.files import read_jsonl
from helpers.knowledge.documents import Passage
from helpers.models.loading import load_base
from helpers.run_dir import Run
from helpers.use import client
from helpers.use.ask import Answerer, ask_file, endpoint_answerer, local_answerers, read_questions
from helpers.use.client import Ended

SETTINGS = Config.resolve("smoke").generation


def written(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n", "utf-8")
    return path


# -------------------------------------------------------------------------------------------------------- the questions


def test_questions_are_rows_of_a_table_or_lines_of_a_text(tmp_path):
    jsonl = written(tmp_path / "q.jsonl", {"question": " Why? "}, "", {"id": 7, "question": "How?", "options": {}})
    assert read_questions(jsonl) == [{"id": "1", "question": "Why?"}, {"id": "7", "question": "How?"}]
    table = written(tmp_path / "q.CSV", "note;Question;id", ";Why?;7", ';"How,', 'then?";')
    assert read_questions(table) == [{"id": "7", "question": "Why?"}, {"id": "4", "question": "How,\nthen?"}]
    (tmp_path / "q.TXT").write_bytes(
        "\ufeffWhy?\r\n\r\nA man of 54.\u2028What next?\r\n".encode()
    )  # as Windows writes it
    text = [{"id": "1", "question": "Why?"}, {"id": "3", "question": "A man of 54.\u2028What next?"}]
    assert read_questions(tmp_path / "q.TXT") == text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "x"}', "line 2: needs a `question` that is text; it has: text"),
        ('{"question": 5}', "line 2: needs a `question` that is text"),
        ('{"question": "Why?", "id": []}', "line 2: id: list instead of text or a number"),
        ('{"question": "  "}', "line 2: the question is empty"),
        (json.dumps({"question": "x" * 9000}), "line 2: the question has 9,000 characters"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line, told):
    with pytest.raises(InputError, match=told):
        read_questions(written(tmp_path / "q.jsonl", {"question": "Why?"}, line))


def test_a_file_without_questions_is_one_line(tmp_path):
    for path, told in (
        (written(tmp_path / "q.txt", "", " "), "has no question"),
        (tmp_path / "none.txt", "cannot read"),
    ):
        with pytest.raises(InputError, match=told):
            read_questions(path)


# --------------------------------------------------------------------------------------------------------- the replies


QUESTIONS = [{"id": str(i), "question": f"Question {i}?"} for i in range(5)]


def repeating(asked, made_by="m", stop_at=None):
    """Says each question back, and notes what it was asked."""

    def rows(questions):
        asked.append(questions)
        for question in questions:
            if question == stop_at:
                raise KeyboardInterrupt
            yield {"reply": f"{question}</think>x", "closed": True}

    return Answerer(made_by, iter, rows)


def test_each_question_and_side_is_a_row(tmp_path):
    asked = []
    target = tmp_path / "new/replies.jsonl"
    assert ask_file(QUESTIONS, target, {"base": repeating(asked), "tuned": repeating(asked)}, batch=2) == 10
    rows = read_jsonl(target)
    assert [(row["side"], row["id"]) for row in rows] == [(s, str(i)) for s in ("base", "tuned") for i in range(5)]
    assert rows[3]["reply"] == "Question 3?</think>x"
    assert [len(batch) for batch in asked] == [2, 2, 1, 2, 2, 1]


def test_what_was_killed_goes_on_where_it_was(tmp_path):
    target, asked = tmp_path / "replies.jsonl", []
    with pytest.raises(KeyboardInterrupt):
        ask_file(QUESTIONS, target, {"tuned": repeating(asked, stop_at="Question 3?")}, batch=4)
    assert len(read_jsonl(target)) == 3
    with open(target, "a", encoding="utf-8") as file:
        file.write('{"id": "3", "question": "Question 3?", "si')  # torn by the kill
    asked.clear()
    assert ask_file(QUESTIONS, target, {"tuned": repeating(asked)}, batch=4) == 2
    assert asked == [["Question 3?", "Question 4?"]]
    assert [row["id"] for row in read_jsonl(target)] == list("01234")
    assert ask_file(QUESTIONS, target, {"tuned": repeating(asked)}, batch=4) == 0


def test_a_question_that_cannot_be_asked_is_said_before_the_first_is(tmp_path):
    def check(question):
        if "3" in question:
            raise InputError("no")

    asked, target = [], tmp_path / "replies.jsonl"
    answerer = Answerer("m", iter, repeating(asked).rows, check)
    with pytest.raises(InputError, match=r"^question 3: no$"):
        ask_file(QUESTIONS, target, {"base": answerer}, batch=2)
    assert (asked, target.exists()) == ([], False)


def test_questions_that_are_looked_up_are_asked_and_checked_with_their_passages(tmp_path):
    def look_up(question):
        return f"passage\n{question}", [Passage("text", "Title", "s", "CC0", address="a")]

    asked, checked, target = [], [], tmp_path / "replies.jsonl"
    answerer = Answerer("m", iter, repeating(asked).rows, checked.append)
    ask_file(QUESTIONS[:1], target, {"base": answerer}, 2, look_up)
    assert (asked, checked) == ([["passage\nQuestion 0?"]], ["passage\nQuestion 0?"])
    [row] = read_jsonl(target)
    assert (row["question"], row["unknown_citations"]) == ("Question 0?", [])
    assert row["sources"] == [
        {"number": 1, "title": "Title", "source": "s", "licence": "CC0", "address": "a", "text": "text"}
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x1c", "\r"])
def test_a_line_end_that_is_none_in_json_does_not_hide_what_is_done(tmp_path, mark):
    target, asked = tmp_path / "replies.jsonl", []
    questions = [{"id": f"a{mark}b", "question": f"A man of 54.{mark}What next?"}]
    assert ask_file(questions, target, {"tuned": repeating(asked)}, batch=4) == 1
    assert ask_file(questions, target, {"tuned": repeating(asked)}, batch=4) == 0


def test_replies_of_different_models_do_not_mix(tmp_path):
    target = tmp_path / "replies.jsonl"
    ask_file(QUESTIONS, target, {"tuned": repeating([])}, batch=4)
    before = target.read_bytes()
    with pytest.raises(InputError, match="another model or other settings"):
        ask_file(QUESTIONS, target, {"tuned": repeating([], made_by="other")}, batch=4)
    other = written(tmp_path / "other.jsonl", {"question": "Why?"})
    with pytest.raises(InputError, match="is not a file of replies"):
        ask_file(QUESTIONS, other, {"tuned": repeating([])}, batch=4)
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("deltas", "reply", "thinking", "answer"),
    [
        (
            [{"reasoning": "Hm"}, {"reasoning": "."}, {"content": "B"}, {"content": "!"}],
            "Hm.</think>\n\nB!",
            "Hm.",
            "B!",
        ),
        ([{"content": "Hm.</thi"}, {"content": "nk>B!"}], "Hm.</think>B!", "Hm.", "B!"),
        ([{"reasoning": "Hm"}], "Hm", "Hm", ""),
    ],
)
def test_a_servers_reply_reads_like_a_models_own(deltas, reply, thinking, answer):
    [(name, answerer)] = endpoint_answerer(client.Endpoint(Server(deltas).url), SETTINGS).items()
    assert name == "the-model"
    *pieces, end = answerer.stream("Why?")
    assert (isinstance(end, Ended), "".join(pieces)) == (True, reply)
    [row] = answerer.rows(["Why?"])
    assert row == {
        "reply": reply, "thinking": thinking, "answer": answer, "closed": bool(answer), "finished": True, "tokens": 7,
    }  # fmt: skip


def test_both_sides_are_one_model_with_and_without_its_adapter(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    config = Config.resolve("smoke", {"generation.temperature": 0, "generation.max_new_tokens": 8})
    run = Run(tmp_path, config)
    (run / "run.yaml").write_text("config: {}\n")
    with pytest.raises(InputError, match="has no adapter yet: run 04_lora_training"):
        local_answerers(run, ["tuned"])
    adapted = get_peft_model(load_base(config), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(str(run / "adapter"))
    answerers = local_answerers(run, ["base", "tuned"])
    replies = {side: next(each.rows(["Why?"]))["reply"] for side, each in answerers.items()}
    assert replies["base"] != replies["tuned"]
    [alone] = local_answerers(run, ["base"]).values()
    assert next(alone.rows(["Why?"]))["reply"] == replies["base"]
    for side, each in answerers.items():
        assert "".join(each.stream("Why?")) == replies[side]


# --------------------------------------------------------------------------------------------------- the command line


def infer(monkeypatch, *words, endpoint="http://127.0.0.1:9/v1"):
    """`python infer.py` in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["infer.py", *words, "--endpoint", endpoint])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT_ROOT / "infer.py"), run_name="__main__")
    return ended.value.code or 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--compare", "Why?"], "a server has one model"),
        (["--file", "q.txt"], "--file and --out go together"),
        ([], "the question is empty"),
        (["Why?"], "at http://127.0.0.1:9/v1 cannot be reached"),
    ],
)
def test_a_wrong_option_is_one_line_on_standard_error(monkeypatch, capsys, words, told):
    assert infer(monkeypatch, *words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert told in line


@pytest.mark.parametrize(("text", "note"), [("a</think>b", False), ("<think>Hm", True), ("a</think>b <think> c", True)])
def test_only_the_reply_is_printed_and_a_missing_answer_noted(monkeypatch, capsys, text, note):
    assert infer(monkeypatch, "Why?", endpoint=Server([{"content": text}]).url) == 0
    told = capsys.readouterr()
    assert told.out == f"{text}\n"
    assert "not medical advice" in told.err
    assert ("the thought was never closed" in told.err) == note
