"""The model cards of an adapter, a merged model and GGUF files, in the hub's format."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from helpers.models.loading import load_tokenizer
from helpers.prompts.encoding import build_prompt
from helpers.questions.benchmarks import BENCHMARKS
from helpers.questions.multiple_choice import baseline_questions
from helpers.report.markdown import quoted
from helpers.report.results import facts, templates
from helpers.run_dir.folder import Run
from helpers.scoring.statistics import nats_apart
from helpers.sources.hub import HUB_CONFIG, hub_dataset, public_name

TAGS = ["sft", "trl", "medical", "reasoning", "ai-doctor"]


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class Kind(NamedTuple):
    """A form of a run's model: its folder, the hub's terms for it, and how it is published.

    That is what its repository is called after the adapter's, the stage that makes it, the files that it needs (`{}` is
    the type of GGUF that the card names), and the others that may leave the machine, as patterns.
    """

    folder: str
    library: str
    relation: str
    tags: tuple[str, ...]
    suffix: str
    stage: str
    required: tuple[str, ...]
    patterns: tuple[str, ...]


KINDS = {
    "adapter": Kind(
        "adapter", "peft", "adapter", ("lora",), "", "04_lora_training",
        ("adapter_model.safetensors", "adapter_config.json"), TOKENIZER_FILES,
    ),
    "merged": Kind(
        "export/merged", "transformers", "finetune", (), "-merged", "06_export", ("config.json",),
        ("generation_config.json", "*.safetensors", "model.safetensors.index.json", *TOKENIZER_FILES),
    ),
    # -GGUF is how the hub's users look for such files.
    "gguf": Kind(
        "export", "gguf", "quantized", ("gguf", "llama.cpp", "ollama"), "-GGUF", "06_export",
        ("Modelfile", "model-{}.gguf"), ("model-*.gguf",),
    ),
}  # fmt: skip

# DeepSeek put its weights under MIT, but they derive from Llama-3.1-8B, whose licence goes with every derivative. The
# stricter of the two is the one to show; unsloth's copy of the model does so too.
LLAMA_LICENCE = "https://www.llama.com/llama3_1/license/"
LLAMA = (
    "llama3.1",
    "MIT for DeepSeek's weights, which derive from Llama-3.1-8B and so fall under the "
    f"[Llama 3.1 Community License]({LLAMA_LICENCE}) and its acceptable use policy too",
)
# Base models and data sets: the hub's identifier of the licence, and the licence in words, as their pages give it.
LICENCES = {
    "tiny": ("apache-2.0", "Apache-2.0 (random weights made by this code)"),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("apache-2.0", "Apache-2.0"),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": LLAMA,
    "unsloth/DeepSeek-R1-Distill-Llama-8B": LLAMA,
    "FreedomIntelligence/medical-o1-reasoning-SFT": ("apache-2.0", "Apache-2.0"),
    "FreedomIntelligence/Medical-R1-Distill-Data": ("apache-2.0", "Apache-2.0"),
    "FreedomIntelligence/Medical-R1-Distill-Data-Chinese": ("apache-2.0", "Apache-2.0"),
    "sample": ("apache-2.0", "Apache-2.0 (synthetic, packaged with this code)"),
    **{benchmark.dataset: benchmark.licence for benchmark in BENCHMARKS.values()},
}
LANGUAGES = {"en": "English", "zh": "Chinese"}
UNKNOWN = ("other", "its owner's terms, which this code does not know")


def model_card(run: Run, kind: str, repo_id: str | None = None, merged_id: str | None = None) -> str:
    """The card of one of KINDS, for a file or for `repo_id`; `merged_id` is the merged model's, for a GGUF's.

    Results appear once 05 has measured them.
    """
    shown, environment = facts(run), templates(autoescape=False)
    environment.filters |= {"quoted": quoted, "code": _code, "nats_apart": nats_apart}
    return environment.get_template("model_card.md.j2").render(
        kind=kind,
        title=f"{shown['base_model'].split('/')[-1]}, fine-tuned on medical chain-of-thought data",
        metadata=card_data(run, kind, shown, merged_id).to_yaml(),
        licences=licences(run, shown),
        from_llama=from_llama(run),
        training_data=training_data(run),
        language=LANGUAGES.get(language(run, shown)),
        prompt=prompt_parts(run),
        repo_id=repo_id,
        where=repo_id or KINDS[kind].folder,
        **shown,
    )


def card_data(run: Run, kind: str, results: dict[str, Any], merged_id: str | None = None) -> ModelCardData:
    """The card's metadata. A GGUF file is a quantised form of the merged model where that is published, as `merged_id`;
    of the base model it is a fine-tune. A base model that is not on the hub is left out."""
    form, base = KINDS[kind], public_name(run.config)
    parent = merged_id or (base if "/" in base else None)
    relation = "finetune" if form.relation == "quantized" and not merged_id else form.relation
    licence = LICENCES.get(base, UNKNOWN)[0]
    stated = {"license_name": "as-the-base-model", "license_link": f"https://huggingface.co/{base}"}
    return ModelCardData(
        base_model=parent,
        datasets=[training_data(run)] if hub_dataset(run.config.data.source) and results["data"] else None,
        language=language(run, results),
        library_name=form.library,
        license=licence,
        metrics=["accuracy"] if results["evaluation"] else None,
        pipeline_tag="text-generation",
        tags=[*form.tags, *TAGS],
        base_model_relation=relation if parent else None,
        **(stated if licence == "other" and "/" in base else {}),
    )


def from_llama(run: Run) -> bool:
    """Whether Llama's licence goes with a model made of this run's base."""
    return LICENCES.get(public_name(run.config)) is LLAMA


def training_data(run: Run) -> str:
    """The training rows' public name: the data set's on the hub, `sample`, or a file's without its folders."""
    source = run.config.data.source
    return hub_dataset(source) or Path(source).name


def language(run: Run, results: dict[str, Any]) -> str | None:
    """The language code of the training rows, from the name of their configuration; None where it has none."""
    data, read = run.config.data, results["data"]["provenance"] if results["data"] else {}
    usual = {"sample": "en", "hub": HUB_CONFIG}.get(data.source, "")
    code = (read.get("config") or data.config or usual).partition("_")[0]
    return code if code in LANGUAGES else None


def licences(run: Run, results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The card's table of licences: what it is for, its name, its licence in words."""
    asked = results["evaluation"]["tasks"] if results["evaluation"] else {}
    sets = dict.fromkeys(_question_set(run, task) for task in asked)
    parts = [
        ("base model", public_name(run.config)),
        ("training data", training_data(run)),
        *(("evaluation questions", name) for name in sets),
    ]
    return [
        *((what, name, LICENCES.get(name, UNKNOWN)[1]) for what, name in parts),
        ("code", "ai-doctor", "Apache-2.0"),
    ]


def prompt_parts(run: Run) -> dict[str, str]:
    """An example question and the prompt that training used around it, as string literals of Python and JSON alike.

    `whole` is `before`, `question` and `after` for llama.cpp, which adds the beginning-of-sequence token itself.
    """
    # The adapter's own copy needs no network.
    own = (run / "adapter/tokenizer_config.json").is_file()
    copy = {"name": str(run / "adapter"), "revision": None, "commit": None} if own else {}
    tokenizer = load_tokenizer(run.config.model.model_copy(update=copy))
    question = baseline_questions()[0]
    prompt = build_prompt(tokenizer, question, run.config.model.prompt_style)
    before, after = prompt.split(question)
    parts = {"question": question, "before": before, "after": after}
    parts["whole"] = prompt.removeprefix(tokenizer.bos_token or "")
    return {name: json.dumps(text, ensure_ascii=False) for name, text in parts.items()}


def _code(name: str) -> str:
    """A name as code in Markdown, unless it could end the code or the table's cell."""
    return f"`{name}`" if re.fullmatch(r"[\w ./:,()@+-]+", name) else quoted(name)


def _question_set(run: Run, task: str) -> str:
    if task in _commits(run):
        return BENCHMARKS[task].dataset
    packaged = task == "sample" and "sample" in run.config.evaluation.questions
    return task if packaged else f"{task} (a file)"


def _commits(run: Run) -> dict[str, str]:
    """The hub's commit of each task that was read there; a user's file may bear a benchmark's name."""
    return run.record.get("questions", {})
