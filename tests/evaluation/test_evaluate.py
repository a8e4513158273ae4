"""Stage 05's steps: what both sides are asked, what is stored, and how an evaluation that was stopped continues."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from evaluated_rows import choice
from peft import LoraConfig, get_peft_model

from helpers import InputError
from helpers.config import Config
from helpers.evaluation import evaluate as evaluation
from helpers.evaluation.evaluate import evaluate, predict
from helpers.evaluation.metrics import summarise
from helpers.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from helpers.generation import decoding
from helpers.generation.replies import Reply
from helpers.models.loading import load_base
from helpers.prompts.encoding import build_prompt, encode_prompt
from helpers.questions.multiple_choice import LEAD, choice_questions
from helpers.run_dir.folder import Run, open_run
from helpers.scoring import answers


class Words:
    """A tokenizer by white space, as far as `predict` needs one."""

    pad_token_id = 0

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens  # else the beginning-of-sequence token would count as a thought
        return {"input_ids": text.split()}


class Switchable:
    """A model that knows which side answers."""

    side, dtype = "tuned", torch.float32

    @contextmanager
    def disable_adapter(self):
        self.side = "base"
        yield
        self.side = "tuned"

    def merge_adapter(self):
        assert self.side == "tuned"

    def unmerge_adapter(self):
        assert self.side == "tuned"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A run folder with validation rows, and stand-ins for the model; gives the run and what was asked."""
    limits = {"evaluation.max_validation": 2, "evaluation.max_questions": 3}
    run = Run(tmp_path, Config.resolve("smoke", limits))
    rows = [{"Question": f"Q{i}", "Complex_CoT": f"C{i} c", "Response": f"R{i}"} for i in range(5)]
    write_jsonl(tmp_path / "data/validation.jsonl", rows)
    key = [q.answer_idx for q in choice_questions(["sample"])["sample"]]
    right, wrong = key[1], "A" if key[2] != "A" else "B"
    replies = [
        Reply("two words</think>An answer.", 9, True),
        Reply("never closed", 16, False),
        Reply(f"x</think>The answer is {key[0]}. But", 16, False),  # right so far, and cut off
        Reply(f"x</think>The answer is {right}.", 9, True),
        Reply(f"x</think>The answer is {wrong}.", 9, True),
    ]
    log = []
    monkeypatch.setattr(evaluation, "encode_example", lambda tokenizer, row, limit, style: row["Response"])
    monkeypatch.setattr(evaluation, "build_prompt", lambda tokenizer, text, style: text)
    monkeypatch.setattr(answers, "encode_prompt", lambda tokenizer, text, style: [text])

    def losses(model, encoded, pad, what):
        log.append(("losses", model.side, encoded))
        return [[1.0, 2.0, 3.0, 2.0], [3.0] * 4] if model.side == "base" else [[1.0] * 4, [4.0] * 4]

    def generated(model, tokenizer, prompts, settings, seed, what, kept, identity):
        log.append(("replies", model.side, [text for [text] in prompts]))
        write_text(kept, identity)
        return replies

    def letters(model, tokenizer, forced, what):
        log.append(("letters", model.side, ["".join(each.ids) + each.lead for each in forced]))
        return [dict.fromkeys(each.letters, 0.1) | {each.letters[-1]: 0.7} for each in forced]

    monkeypatch.setattr(evaluation, "token_nlls", losses)
    for module in (evaluation, answers):
        monkeypatch.setattr(module, "encode_thought", lambda tokenizer, text: [*text.split(), "</think>"])
    monkeypatch.setattr(answers, "separator", lambda tokenizer: "</think>\n\n")
    monkeypatch.setattr(answers, "generate", generated)
    monkeypatch.setattr(answers, "letter_probabilities", letters)
    return SimpleNamespace(run=run, log=log)


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_one_side_is_asked_every_row_and_question_with_the_adapter_off_or_on(asked, side):
    model = Switchable()
    rows = predict(asked.run, model, Words(), evaluation.questions(asked.run), side)
    questions = choice_questions(["sample"])["sample"][:3]
    between = "</think>" + ("\n\n" if side == "base" else "") + LEAD
    assert asked.log == [
        ("losses", side, ["R0", "R1"]),
        ("replies", side, ["Q0", "Q1", *(q.as_prompt() for q in questions)]),
        ("letters", side, [q.as_prompt() + "x" + between for q in questions]),
    ]
    assert model.side == "tuned"
    assert [row["id"] for row in rows] == ["validation-0", "validation-1", *(q.id for q in questions)]
    assert [row["task"] for row in rows] == ["validation"] * 2 + ["sample"] * 3
    assert [row.get("nll") for row in rows[:2]] == ([2.0, 3.0] if side == "base" else [1.0, 4.0])
    # Two tokens of thought, the tag, one of the answer.
    parts = [rows[0][f"nll_{part}"] for part in ("thinking", "answer", "delimiter", "text")]
    assert parts == ([2.0, 2.0, 5 / 4, 1.5] if side == "base" else [1.0, 1.0, 0.5, 1.0])
    for row in rows[2:]:
        assert row["letters"] == {"A": 0.1, "B": 0.1, "C": 0.1, "D": 0.7}
    assert (rows[0]["closed"], rows[0]["thinking_tokens"], rows[0]["finished"]) == (True, 2, True)
    assert (rows[1]["closed"], rows[1]["finished"]) == (False, False)
    assert rows[0]["reply"] == "two words</think>An answer."  # the whole reply
    assert rows[0]["reference"] == "R0"


@pytest.mark.parametrize(("side", "before", "after"), [("base", "\n", "\n\n"), ("tuned", "", "")])
def test_a_model_is_made_to_answer_in_the_form_it_was_trained_with(r1_tokenizer, monkeypatch, side, before, after):
    """R1's makers put line breaks around the tag. A tag inside a thought stays text, and an open thought is closed."""
    thoughts = ["The fever, he wrote </think>, began at night\n", "One two three four five six seven eight nine ten"]
    replies = [f"{thoughts[0]}</think>\n\nThe answer is (B).", thoughts[1]]
    rows = [choice("t", i, "A", None, reply=reply) for i, reply in enumerate(replies)]
    heard = []

    def letters(model, tokenizer, forced, what):
        heard.extend((each.ids, each.lead) for each in forced)
        return [None] * len(forced)

    monkeypatch.setattr(answers, "letter_probabilities", letters)
    choices = [(row, encode_prompt(r1_tokenizer, row["question"])) for row in rows]
    answers.force_answers(None, r1_tokenizer, choices, side)
    assert [row["letters"] for row in rows] == [None, None]
    prompts = [build_prompt(r1_tokenizer, row["question"]) for row in rows]
    texts = [r1_tokenizer.decode(ids) for ids, _ in heard]
    assert {lead for _, lead in heard} == {after + LEAD}
    assert texts == [p + t.rstrip() + before + "</think>" for p, t in zip(prompts, thoughts, strict=True)]
    tag = r1_tokenizer.convert_tokens_to_ids("</think>")
    assert all(ids[-1] == tag and ids.count(tag) == 1 for ids, _ in heard)


def test_a_reply_that_ran_out_of_tokens_counts_as_wrong(asked):
    cut, right, wrong = predict(asked.run, Switchable(), Words(), evaluation.questions(asked.run), "tuned")[2:]
    assert (cut["finished"], cut["correct"]) == (False, False)
    assert (right["choice"], right["correct"]) == (right["answer_idx"], True)
    assert wrong["choice"] is not None
    assert wrong["correct"] is False


@pytest.fixture
def evaluated(asked, monkeypatch):
    (asked.run / "adapter").mkdir()
    monkeypatch.setattr(evaluation, "load_tokenizer", lambda settings: Words())
    monkeypatch.setattr(evaluation, "load_with_adapter", lambda config, adapter: Switchable())
    return asked.run


def test_evaluating_leaves_both_sides_replies_and_the_metrics_of_them(evaluated):
    metrics = evaluate(evaluated)
    sides = [read_jsonl(evaluated / f"evaluation/predictions.{side}.jsonl") for side in ("base", "tuned")]
    assert read_json(evaluated / "evaluation/metrics.json") == metrics
    assert summarise(*sides) == metrics
    assert metrics["validation"]["paired"]["nll_delta"] == 0.0  # -1 and +1
    assert metrics["tasks"]["sample"]["tuned"]["truncated"] == pytest.approx(1 / 3)
    assert sorted(path.name for path in (evaluated / "evaluation").iterdir()) == [
        ".replies.base.jsonl", ".replies.tuned.jsonl", "metrics.json", "predictions.base.jsonl",
        "predictions.tuned.jsonl", "tasks",
    ]  # fmt: skip


def test_what_03_flagged_is_left_out_of_a_second_figure(evaluated):
    first = choice_questions(["sample"])["sample"][0].id
    write_json(evaluated / "data/report.json", {"overlap": {"sample": {"flagged": [first]}}})
    flagged = evaluate(evaluated)["tasks"]["sample"]["flagged"]
    assert (flagged["n"], flagged["without"]["n"]) == (1, 2)


def test_replies_are_kept_for_one_side_and_one_adapter(asked):
    weights = asked.run / "adapter/adapter_model.safetensors"
    weights.parent.mkdir()
    kept, questions = {}, evaluation.questions(asked.run)
    for adapter in (b"one", b"two"):
        weights.write_bytes(adapter)
        for side in ("base", "tuned"):
            predict(asked.run, Switchable(), Words(), questions, side)
            kept[side, adapter] = (asked.run / f"evaluation/.replies.{side}.jsonl").read_text()
    assert kept["base", b"one"] == kept["base", b"two"]
    assert len(set(kept.values())) == 3


def test_an_evaluation_that_stops_leaves_the_older_one_whole(evaluated, monkeypatch):
    evaluate(evaluated)
    folder = evaluated / "evaluation"
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}

    def stop(run, model, tokenizer, questions, side):
        if side == "tuned":
            raise RuntimeError("out of memory")
        return []

    monkeypatch.setattr(evaluation, "predict", stop)
    with pytest.raises(RuntimeError):
        evaluate(evaluated)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before


def test_the_test_rows_are_asked_where_the_settings_say_so(asked):
    run = Run(asked.run.path, Config.resolve("smoke", {"evaluation.rows": "test", "evaluation.max_validation": 2}))
    rows = [{"Question": f"last {i}", "Complex_CoT": "c", "Response": "r"} for i in range(3)]
    write_jsonl(run / "data/test.jsonl", rows)
    assert [q["question"] for q in evaluation.questions(run)[:2]] == ["last 0", "last 1"]
    write_jsonl(run / "data/test.jsonl", [])
    with pytest.raises(InputError, match=r"evaluation.rows = test: data/test.jsonl of .* holds no row"):
        evaluation.questions(run)


def test_without_an_adapter_the_stage_that_makes_it_is_named(tmp_path):
    with pytest.raises(InputError, match="has no adapter yet: run 04_lora_training first"):
        evaluate(Run(tmp_path, Config.resolve("smoke")))


def trained(folder, rows):
    """A run folder as 04 leaves it, with a random adapter."""
    few = {"evaluation.max_validation": 2, "evaluation.max_questions": 3}
    changes = few | {"generation.temperature": 0.9, "generation.max_new_tokens": 8, "tracking.wandb": "disabled"}
    run = open_run("smoke", folder, changes)
    write_jsonl(run / "data/validation.jsonl", rows[:2])
    torch.manual_seed(0)
    how = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(load_base(run.config), how).save_pretrained(run / "adapter")
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sample_rows):
    run = trained(tmp_path_factory.mktemp("runs") / "whole", sample_rows)
    evaluate(run)
    return run


def test_an_evaluation_stopped_in_the_middle_ends_as_if_it_had_not_been(whole, tmp_path, sample_rows, monkeypatch):
    """As after kill -9: what was kept is what had been flushed, and the last line may be torn."""
    decode, counts, limit = decoding.decode, [], 5 + 3

    def counted(model, tokenizer, prompts, settings, seed, order, done, *more):
        counts.append(0)

        def one(i, tokens):
            if sum(counts) == limit:
                raise KeyboardInterrupt
            counts[-1] += 1
            done(i, tokens)

        decode(model, tokenizer, prompts, settings, seed, order, one, *more)

    monkeypatch.setattr("helpers.generation.replies.decode", counted)
    stopped = trained(tmp_path / "stopped", sample_rows)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopped)
    with open(stopped / "evaluation/.replies.tuned.jsonl", "a") as file:
        file.write("[4, [1, 2")
    limit = 1000
    evaluate(stopped)
    assert counts == [5, 3, 2]
    sides = [f"predictions.{side}.jsonl" for side in ("base", "tuned")]
    for name in (*sides, "metrics.json", "tasks/sample.jsonl"):
        assert (stopped / "evaluation" / name).read_bytes() == (whole / "evaluation" / name).read_bytes()
    exported = read_jsonl(whole / "evaluation/tasks/sample.jsonl")
    assert all(row["prompt"].endswith("<think>\n") and row["question"] in row["prompt"] for row in exported)
    assert exported
    base, tuned = (read_jsonl(whole / f"evaluation/predictions.{side}.jsonl") for side in ("base", "tuned"))
    assert [(row["id"], row["question"]) for row in base] == [(row["id"], row["question"]) for row in tuned]
    assert [row["reply"] for row in base] != [row["reply"] for row in tuned]
