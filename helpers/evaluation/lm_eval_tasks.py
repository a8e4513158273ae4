"""The multiple-choice questions as tasks of EleutherAI's lm-evaluation-harness, for others to put to other models.

A run leaves them in evaluation/tasks, prompts and sampling included. With `pip install lm-eval` in any environment:

    lm_eval --model hf --model_args pretrained=MODEL,tokenizer=RUN/adapter,peft=RUN/adapter \\
        --include_path RUN/evaluation/tasks --tasks medqa --output_path LOGS --log_samples

without `peft` for the base model. The tasks ask for whole replies, unlike the harness's own medical ones, which compare
log-likelihoods of answers that no thought comes before. Their filter takes the last "answer is" after the thought: it
is laxer than `scoring.choice.extract_choice`, and the harness cannot tell a reply that was cut off. Leave its
`think_end_token` unset: it passes off a thought that never ended as an answer.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from helpers.config import GenerationSettings
from helpers.files import atomic_dir, write_jsonl, write_text

TASK = {
    "output_type": "generate_until",
    "dataset_path": "json",
    "test_split": "test",
    "num_fewshot": 0,
    # The model's own chat template is in it already: not with --apply_chat_template, which would put it there twice.
    "doc_to_text": "prompt",
    "doc_to_target": "target",
    "filter_list": [
        {
            "name": "last-statement",
            "filter": [
                {"function": "regex", "regex_pattern": r"(?s)</think>.*answer is \(?([A-Z])\b", "group_select": -1},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 2},
}


def write_tasks(folder: Path, questions: Sequence[Mapping[str, Any]], settings: GenerationSettings) -> None:
    """Fill `folder` with NAME.jsonl and NAME.yaml for every task of the questions: those of `evaluate.questions`.

    Each also has `prompt`, what the model reads. Those without options are left out: no program scores their replies.
    """
    sampled = {"do_sample": settings.temperature > 0, "temperature": settings.temperature, "top_p": settings.top_p}
    # Nothing ends a reply but its end-of-sequence token: the harness's usual stop, a blank line, is in every thought.
    sampling = {"until": [], "max_gen_toks": settings.max_new_tokens, **sampled}
    choices = [question for question in questions if "options" in question]
    with atomic_dir(folder) as temporary:
        for name, rows in groupby(choices, key=lambda question: question["task"]):
            write_jsonl(temporary / f"{name}.jsonl", rows)
            files = {"data_files": {"test": str(folder / f"{name}.jsonl")}}
            task = {"task": name, "dataset_kwargs": files, **TASK, "generation_kwargs": sampling}
            write_text(temporary / f"{name}.yaml", yaml.safe_dump(task, sort_keys=False, allow_unicode=True))
