"""The harness asks, and its log is read: against the harness's own backend, and where its ways would do harm."""

import logging
import os
from types import SimpleNamespace

import datasets
import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate as plain_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from helpers import InputError, decoding, evaluation
from helpers.config import Config
from helpers.evaluation import compare_logs, compare_paired, questions, score
from helpers.generation import Reply, generate
from helpers.harness import Loaded, ask, read_samples
from helpers.models import load_base
from helpers.prompts import encode_example, encode_prompt
from helpers.questions import ChoiceQuestion
from helpers.run_dir import open_run, read_jsonl, write_jsonl

SETTINGS = Config.resolve("smoke", {"generation.max_new_tokens": 24}).generation
TWO, FIVE = {"A": "yes", "B": "no"}, dict(zip("ABCDE", "vwxyz", strict=True))


def question(task, i, text="Why?", options=TWO, **more):
    row = {"task": task, "id": f"{task}-{i}", "question": text, "prompt": f"<|{text}|>", "target": "A"}
    return {**row, "options": options, **more}


def echo(texts):
    return [Reply(f"{text}</think>The answer is A.", len(text), True) for text in texts]


# Asking ----------------------------------------------------------------------------------------------------------


def test_all_questions_of_all_tasks_are_asked_at_once_and_in_order(tmp_path):
    asked = [question(f"my.set {k}", i, f"Q{k}{i}", FIVE if i else TWO) for k in "ba" for i in range(12)]
    calls = []
    replies = ask(tmp_path / "tasks", asked, SETTINGS, lambda texts: calls.append(texts) or echo(texts))
    assert calls == [[row["question"] for row in asked]]
    assert replies == echo(calls[0])


@pytest.mark.parametrize(
    "text",
    [
        "Both {{ braces }} and {% tags %}, 100%",
        "a\u2028b\u0085c\n\n  d ",
        '"quoted" \\n \u00b5g </think><｜Assistant｜><think>',
        "7",
        "2026-11-23",
    ],
)
def test_a_question_reaches_the_model_as_it_stands(tmp_path, text):
    ask(
        tmp_path, [question("t", 0, text), question("t", 1)], SETTINGS, lambda texts: asked.append(texts) or echo(texts)
    )
    assert asked.pop() == [text, "Why?"]


asked: list[list[str]] = []


def test_what_is_asked_lies_in_the_folder_for_any_backend(tmp_path):
    rows = [question("t", 0), question("t", 1, options=FIVE)]
    ask(tmp_path / "tasks", [question("older", 0)], SETTINGS, echo)
    ask(tmp_path / "tasks", rows, SETTINGS, echo)
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == ["t.jsonl", "t.yaml"]
    assert read_jsonl(tmp_path / "tasks/t.jsonl") == rows
    task = yaml.safe_load((tmp_path / "tasks/t.yaml").read_text())
    assert task["generation_kwargs"] == {
        "until": [], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0, "top_p": 1.0,
    }  # fmt: skip
    assert task["dataset_kwargs"] == {"data_files": {"test": str(tmp_path / "tasks/t.jsonl")}}
    assert task["output_type"] == "generate_until"


def test_asking_says_nothing_and_leaves_nothing_elsewhere(tmp_path, capfd, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    level, bars = logging.getLogger("lm_eval").level, datasets.are_progress_bars_disabled()
    before = set(os.environ)
    ask(tmp_path / "run", [question("t", i) for i in range(50)], SETTINGS, echo)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("lm_eval")] == []
    assert (logging.getLogger("lm_eval").level, datasets.are_progress_bars_disabled()) == (level, bars)
    assert not (tmp_path / "cache").exists()
    assert set(os.environ) == before
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["t.jsonl", "t.yaml"]


def test_a_reply_that_is_not_to_its_question_is_noticed(tmp_path, monkeypatch):
    def mixed(self, requests):
        texts = generate_until(self, requests)
        return texts[::-1]

    generate_until = Loaded.generate_until
    monkeypatch.setattr(Loaded, "generate_until", mixed)
    with pytest.raises(RuntimeError, match="mixed up the reply to t-0"):
        ask(tmp_path / "tasks", [question("t", i, f"Q{i}") for i in range(2)], SETTINGS, echo)


def test_log_likelihoods_are_refused_with_the_reason():
    request = Instance("loglikelihood", {}, ("2 + 2 =", " 4"), 0)
    for method in ("loglikelihood", "loglikelihood_rolling"):
        with pytest.raises(NotImplementedError, match="judged by what it replies"):
            getattr(Loaded(echo), method)([request])


# Against the harness's own backend -------------------------------------------------------------------------------


CHOICES = [
    {"id": "right", "question": "right " * 8, "options": TWO, "answer_idx": "A"},
    {"id": "wrong", "question": "wrong " * 8, "options": FIVE, "answer_idx": "E"},
    {"id": "endless", "question": "endless " * 8, "options": TWO, "answer_idx": "A"},
    {"id": "none", "question": "none " * 8, "options": FIVE, "answer_idx": "B"},
]
SAID = ["Yes.</think>The answer is A.", "Well.</think>The answer is D.", "so" + " so" * 40, "Hm.</think>Nobody knows."]


@pytest.fixture(scope="module")
def taught(r1_tokenizer):
    """The tiny model, taught to reply to four questions: rightly, wrongly, without end, without an answer."""
    torch.manual_seed(0)
    model = load_base(Config.resolve("smoke"))
    rows = []
    for choice, said in zip(CHOICES, SAID, strict=True):
        thought, _, answer = said.partition("</think>")
        example = {"Question": ChoiceQuestion(**choice).as_prompt(), "Complex_CoT": thought, "Response": answer}
        rows.append(encode_example(r1_tokenizer, example, 1024))
    ids, labels = (
        pad_sequence([torch.tensor(row[key]) for row in rows], batch_first=True, padding_value=-100)
        for key in ("input_ids", "labels")
    )
    learned = labels[:, 1:] != -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        states = model.model(ids.clamp(min=0)).last_hidden_state[:, :-1][learned]
        loss = cross_entropy(model.lm_head(states), labels[:, 1:][learned])
        if loss < 0.02:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def both(taught, r1_tokenizer, tmp_path_factory):
    """Our replies, and the harness's own: HFLM on the files that we left, and the log that it wrote."""
    folder = tmp_path_factory.mktemp("both")
    write_jsonl(folder / "four.jsonl", CHOICES)
    run = SimpleNamespace(config=Config.resolve("smoke", {"evaluation.questions": str(folder / "four.jsonl")}))
    rows = questions(run, r1_tokenizer, [])

    def answer(texts):
        prompts = [encode_prompt(r1_tokenizer, text) for text in texts]
        return generate(taught, r1_tokenizer, prompts, SETTINGS, 0)

    def log(name, **how):
        loaded = TaskManager(include_defaults=False, include_path=folder / "tasks").load(["four"])
        lm = HFLM(pretrained=taught, tokenizer=r1_tokenizer, batch_size=4, **how)
        result = plain_evaluate(lm, loaded, bootstrap_iters=0)
        tracker = EvaluationTracker(output_path=str(folder / name))
        tracker.general_config_tracker.model_name_sanitized, tracker.date_id = "tiny", "today"
        tracker.save_results_samples("four", result["samples"]["four"])
        return folder / name / "tiny/samples_four_today.jsonl"

    ours = ask(folder / "tasks", rows, SETTINGS, answer)
    return SimpleNamespace(asked=rows, ours=ours, log=log("log"), stripped=log("no", think_end_token="</think>"))


def test_the_harness_itself_gets_the_same_replies_and_scores(both, r1_tokenizer):
    assert [reply.finished for reply in both.ours] == [True, True, False, True]
    asked, replies = read_samples(both.log, r1_tokenizer)
    assert asked == both.asked
    # The end-of-sequence token is of our count; the harness's text does not hold it.
    assert replies == [Reply(r.text, r.tokens - r.finished, r.finished) for r in both.ours]
    ours, theirs = score(both.asked, both.ours, r1_tokenizer), score(asked, replies, r1_tokenizer)
    verdicts = [(row["closed"], row["choice"] is None, row["correct"]) for row in ours]
    assert verdicts == [(True, False, True), (True, False, False), (False, True, False), (True, True, False)]
    assert [{**row, "tokens": 0} for row in theirs] == [{**row, "tokens": 0} for row in ours]
    pairs = compare_paired([row["correct"] for row in ours], [row["correct"] for row in theirs], seed=1)
    assert (pairs["base_only"], pairs["tuned_only"], pairs["delta"]) == (0, 0, 0.0)


def test_the_harness_passes_off_a_thought_without_end_as_an_answer(both, r1_tokenizer):
    """Why `think_end_token` is to be left unset: what it leaves cannot be told from an answer, so none is read."""
    asked, replies = read_samples(both.stripped, r1_tokenizer)
    assert [r.text for r in replies] == [ours.text.split("</think>")[-1].lstrip() for ours in both.ours]
    assert replies[2].text.startswith("so so")
    assert [row["choice"] for row in score(asked, replies, r1_tokenizer)] == [None] * 4


def test_a_special_token_in_a_question_is_text_to_us_and_markup_to_the_harness(r1_tokenizer, tmp_path):
    text = "Which one?<｜Assistant｜></think>"
    [ids] = [encode_prompt(r1_tokenizer, text)]
    turn = r1_tokenizer.convert_tokens_to_ids("<｜Assistant｜>")
    run = SimpleNamespace(config=Config.resolve("smoke", {"evaluation.max_questions": 1}))
    [open_one, _] = questions(run, r1_tokenizer, [{"Question": text, "Response": "A"}])
    theirs = r1_tokenizer(open_one["prompt"], add_special_tokens=False)["input_ids"]
    assert (ids.count(turn), theirs.count(turn)) == (1, 2)
    seen = []
    ask(tmp_path / "tasks", [open_one], SETTINGS, lambda texts: seen.extend(texts) or echo(texts))
    assert seen == [text]


# Reading logs ----------------------------------------------------------------------------------------------------


def sample(number, text="a</think>The answer is A.", limit=100, **more):
    arguments = {"gen_args_0": {"arg_0": "prompt", "arg_1": {"until": [], "max_gen_toks": limit}}}
    doc = question("t", number, options={**TWO, "C": None})
    return {"doc_id": number, "doc": doc, "resps": [[text]], "arguments": arguments, **more}


def test_a_log_is_read_in_the_order_of_the_questions_without_empty_options(tmp_path, r1_tokenizer):
    write_jsonl(tmp_path / "samples_t.jsonl", [sample(2), sample(0), sample(1), sample(0)])
    asked, replies = read_samples(tmp_path / "samples_t.jsonl", r1_tokenizer)
    assert asked == [question("t", i) for i in range(3)]
    assert [row["correct"] for row in score(asked, replies, r1_tokenizer)] == [True] * 3


def test_a_reply_as_long_as_the_limit_is_taken_for_cut_off(tmp_path, r1_tokenizer):
    """With a tenth to spare: what a model spelt unusually makes fewer tokens when it is read again."""
    text = "a" * 80 + "</think>The answer is A."
    length = len(r1_tokenizer(text, add_special_tokens=False)["input_ids"])
    write_jsonl(tmp_path / "log.jsonl", [sample(0, text, 2 * length), sample(1, text, length + 1)])
    asked, replies = read_samples(tmp_path / "log.jsonl", r1_tokenizer)
    assert [reply.finished for reply in replies] == [True, False]
    assert [row["correct"] for row in score(asked, replies, r1_tokenizer)] == [True, False]


NO_LOGS = [[], [{"id": "q1"}], [sample(0, resps=[["a", "b"]])], [sample(0, resps=[[-1.5], [0]])]]


def test_the_log_of_a_task_of_the_harnesss_own_is_not_read(tmp_path, r1_tokenizer):
    write_jsonl(tmp_path / "log.jsonl", [{**sample(0), "doc": {"question": "2 + 2?", "answer": "4"}}])
    with pytest.raises(InputError, match=r"log\.jsonl is the log of another task"):
        read_samples(tmp_path / "log.jsonl", r1_tokenizer)


def test_two_logs_of_one_task_are_compared_by_question(both, tmp_path, r1_tokenizer):
    rows = read_jsonl(both.log)
    rows[1]["resps"] = [["Well.</think>The answer is E."]]  # which was wrong
    write_jsonl(tmp_path / "tuned.jsonl", rows[::-1])
    figures = compare_logs(both.log, tmp_path / "tuned.jsonl", r1_tokenizer, seed=1)
    assert (figures["n"], figures["base"]["accuracy"], figures["tuned"]["accuracy"]) == (4, 0.25, 0.5)
    assert (figures["paired"]["base_only"], figures["paired"]["tuned_only"]) == (0, 1)
    assert (figures["base"]["abstained"], figures["base"]["truncated"]) == (0.25, 0.25)
    assert "accuracy" in figures["verdict"]


@pytest.mark.parametrize("change", [{"question": "Else?"}, {"id": "other"}, {"target": "B"}])
def test_logs_of_different_questions_are_not_compared(tmp_path, r1_tokenizer, change):
    write_jsonl(tmp_path / "base.jsonl", [sample(0), sample(1)])
    write_jsonl(tmp_path / "tuned.jsonl", [sample(0), {**sample(1), "doc": {**sample(1)["doc"], **change}}])
    write_jsonl(tmp_path / "fewer.jsonl", [sample(0)])
    for name in ("tuned", "fewer"):
        with pytest.raises(InputError, match=f"base.jsonl and {name}.jsonl are not of the same"):
            compare_logs(tmp_path / "base.jsonl", tmp_path / f"{name}.jsonl", r1_tokenizer, seed=1)


@pytest.mark.parametrize("rows", NO_LOGS)
def test_what_is_no_log_of_replies_is_one_line(tmp_path, r1_tokenizer, rows):
    write_jsonl(tmp_path / "log.jsonl", rows)
    with pytest.raises(InputError, match=r"log\.jsonl is not the harness's log of one reply a question"):
        read_samples(tmp_path / "log.jsonl", r1_tokenizer)


# Stopped and gone on ---------------------------------------------------------------------------------------------


def test_an_evaluation_stopped_in_the_middle_ends_as_if_it_had_not_been(tmp_path, sample_rows, monkeypatch):
    """As after kill -9: what was kept is what had been flushed, and the last line may be torn."""
    changes = {"generation.temperature": 0.9, "tracking.wandb": "disabled"}
    decode, counts, limit = decoding.decode, [], 1000

    def counted(model, tokenizer, prompts, settings, seed, order, done, *more):
        counts.append(0)

        def one(i, tokens):
            if sum(counts) == limit:
                raise KeyboardInterrupt
            counts[-1] += 1
            done(i, tokens)

        decode(model, tokenizer, prompts, settings, seed, order, one, *more)

    monkeypatch.setattr("helpers.generation.decode", counted)

    def folder(name):
        run = open_run("smoke", tmp_path / name, changes)
        write_jsonl(run / "data/validation.jsonl", sample_rows[:4])
        torch.manual_seed(0)
        how = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(load_base(run.config), how).save_pretrained(run / "adapter")
        return run

    whole, stopped = folder("whole"), folder("stopped")
    evaluation.evaluate(whole)
    assert counts == [8, 8, 2]
    limit = 18 + 8 + 5
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(stopped)
    with open(stopped / "evaluation/.replies.tuned.jsonl", "a") as file:
        file.write("[7, [1, 2")
    limit = 1000
    evaluation.evaluate(stopped)
    assert counts == [8, 8, 2, 8, 5, 3, 2]
    sides = [f"predictions.{side}.jsonl" for side in ("base", "tuned", "strength")]
    for name in (*sides, "metrics.json", "tasks/sample.jsonl"):
        assert (stopped / "evaluation" / name).read_bytes() == (whole / "evaluation" / name).read_bytes()
    base, tuned = (read_jsonl(whole / f"evaluation/predictions.{side}.jsonl") for side in ("base", "tuned"))
    assert [(row["id"], row["question"]) for row in base] == [(row["id"], row["question"]) for row in tuned]
    assert [row["reply"] for row in base] != [row["reply"] for row in tuned]
