"""EleutherAI's lm-evaluation-harness asks the questions, and its logs of replies are read.

In a run it asks the model that is loaded, once with its adapter off and once on, through our own decoding. What it asks
lies in the run folder, prompts and sampling included, so that it can do it again with a backend of its own:

    lm_eval --model hf --model_args pretrained=MODEL,tokenizer=RUN/adapter,peft=RUN/adapter \\
        --include_path RUN/evaluation/tasks --tasks medqa --output_path LOGS --log_samples

without `peft` for the base model, and always with the adapter's tokenizer, which was proved when it was loaded and is
saved so that every version loads it as it is. Where vLLM is installed, `--model vllm` with `lora_local_path` for `peft`
will do (it was not run here). `evaluation.compare_logs` scores and pairs two such logs.

What it cannot do honestly for a thinking model is left out or done here:
- Its own `medqa_4options`, `medmcqa`, `pubmedqa` and `mmlu_*` compare log-likelihoods of answers that no thought comes
  before. Here `loglikelihood` is refused, and the loss of unseen rows is `generation.completion_nll`: the harness takes
  a text apart into tokens by itself, and so not into those that were trained.
- Its backends return text and not how it ended, so that a reply cut off counts like one that was finished; they read
  special tokens in a question as if they were ours, and HF's leaves out those that a model writes. `think_end_token`
  returns a thought that never ended as the answer: leave it unset.
- Its cache knows a reply by its prompt alone, not by the model, and holds none that was sampled. Ours is in `generate`.
- It does not pair two models' replies: that is `intervals.compare_paired`.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import yaml
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from helpers import InputError
from helpers.config import GenerationSettings
from helpers.generation import Reply
from helpers.run_dir import read_jsonl, whole_folder, write_jsonl, write_text

Question = dict[str, Any]
TEMPLATE = Path(__file__).parent / "data" / "reply_task.yaml"


class Loaded(LM):
    """A model that is loaded already, as the harness sees it: `answer` gives the replies to questions, all at once."""

    def __init__(self, answer: Callable[[list[str]], list[Reply]]) -> None:
        super().__init__()
        self.answer = answer
        self.replies: dict[tuple[str, int], Reply] = {}  # by task and number in it

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Reply to the requests' questions, not to their prompts as text, of which a special token in a question and
        one of the template would be made alike."""
        replies = self.answer([request.doc["question"] for request in requests])
        self.replies |= {(r.task_name, r.doc_id): reply for r, reply in zip(requests, replies, strict=True)}
        return [reply.text for reply in replies]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("a thinking model is judged by what it replies, not by how likely a letter is")

    loglikelihood_rolling = loglikelihood


def ask(
    folder: Path,
    questions: Sequence[Question],
    settings: GenerationSettings,
    answer: Callable[[list[str]], list[Reply]],
) -> list[Reply]:
    """The replies to all questions, in their order, by way of the harness; its tasks are left in `folder`.

    A question is a dict with `task`, by which they are in order, `id`, `question`, `prompt` (the same in the model's
    template), `target`, and for one with `options` those. `answer` is called once, with all of them.
    """
    model, written = Loaded(answer), write_tasks(folder, questions, settings)
    with _quiet():
        # Read into memory: the files are the run's own and small, and a copy in the user's cache would stay for ever.
        with tempfile.TemporaryDirectory() as cache:
            passing = {"cache_dir": cache, "keep_in_memory": True}
            tasks = [{**task, "dataset_kwargs": {**task["dataset_kwargs"], **passing}} for task in written]
            loaded = TaskManager(include_defaults=False).load(tasks)
        log = evaluate(model, loaded, bootstrap_iters=0)["samples"]
    samples = [sample for task in written for sample in _in_order(log[task["task"]], task["task"])]
    replies = [model.replies[sample["doc"]["task"], sample["doc_id"]] for sample in samples]
    for asked, sample, reply in zip(questions, samples, replies, strict=True):
        if (sample["doc"]["question"], sample["resps"]) != (asked["question"], [[reply.text]]):
            raise RuntimeError(f"the harness has mixed up the reply to {asked['id']}")
    return replies


def write_tasks(folder: Path, questions: Sequence[Question], settings: GenerationSettings) -> list[dict[str, Any]]:
    """Fill `folder` with NAME.jsonl and NAME.yaml for every task, and return what is in the latter."""
    template = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    sampled = {"do_sample": settings.temperature > 0, "temperature": settings.temperature, "top_p": settings.top_p}
    template["generation_kwargs"] |= {"max_gen_toks": settings.max_new_tokens, **sampled}
    tasks = []
    with whole_folder(folder) as temporary:
        for name, rows in groupby(questions, key=lambda question: question["task"]):
            file = f"{name}.jsonl"
            write_jsonl(temporary / file, rows)
            tasks.append({"task": name, "dataset_kwargs": {"data_files": {"test": str(folder / file)}}, **template})
            text = yaml.safe_dump(tasks[-1], sort_keys=False, allow_unicode=True)
            write_text(temporary / f"{name}.yaml", text)
    return tasks


def read_samples(path: Path, tokenizer: Any) -> tuple[list[Question], list[Reply]]:
    """One task's questions and replies from the harness's log (`samples_*.jsonl`), whatever backend wrote it.

    No log says whether a reply ended by itself. Here it did if its text makes less than nine tenths of the tokens that
    the log gives as the limit: special tokens are not in it, and what a model spelt unusually makes fewer when it is
    read again. So a long reply may be taken for one cut off, which counts as wrong, but hardly the other way round.
    """
    questions, replies = [], []
    for sample in _in_order(read_jsonl(path), path.name):
        question, [[text]] = sample["doc"], sample["resps"]
        if not question.keys() >= {"task", "id", "question", "target"}:
            raise InputError(f"{path.name} is the log of another task than those in a run's evaluation/tasks")
        if "options" in question:  # a column for every letter in the file
            question["options"] = {k: option for k, option in question["options"].items() if option is not None}
        tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        limit = sample["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"]
        questions.append(question)
        replies.append(Reply(text, tokens, tokens < 0.9 * limit))
    return questions, replies


def _in_order(samples: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """As the questions were; with several threads or filters a log is in another order, or holds a reply twice."""
    by_number = {sample.get("doc_id"): sample for sample in samples}
    if not samples or None in by_number or any([len(reply) for reply in s["resps"]] != [1] for s in samples):
        raise InputError(f"{where} is not the harness's log of one reply a question")
    return [by_number[number] for number in sorted(by_number)]


@contextmanager
def _quiet() -> Iterator[None]:
    """No word of the harness's and no bar but ours: what it says of its set-up is no news to a reader."""
    logger, bars, level = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm, logging.getLogger("lm_eval").level
    shown = not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = partial(bars, disable=True)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bars
        if shown:
            datasets.enable_progress_bars()
