"""What several test files share: the two tokenizers, the rows that are at hand, and the command line.

The only conftest.py: tests import names from it, and pytest imports two of that name in place of each other.
"""

import gc
import gzip
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import PROJECT_ROOT, InputError
from helpers.__main__ import main
from helpers.config import Config, _Section
from helpers.files import read_jsonl, write_jsonl
from helpers.machine.hardware import Machine
from helpers.run_dir.folder import open_run
from helpers.run_dir.modules import LEFT_OUT
from helpers.sources.rows import SAMPLE
from helpers.tracking import secrets

CORPORA = PROJECT_ROOT.parent / "shared" / "knowledge"
MACHINE = Machine(system="Test machine", cpu_cores=2, memory_gib=8.0, disk_free_gib=50.0)
REAL_ROWS = PROJECT_ROOT.parent / "shared" / "data" / "medical_o1_en_187.jsonl"


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """No garbage collection looks through what is imported, torch and its like, now or later.

    A training asks for some, and each would take half a second.
    """
    gc.disable()
    found = yield
    gc.enable()
    gc.freeze()
    return found


@pytest.fixture(autouse=True)
def no_secrets_found_before(monkeypatch):
    """A process remembers where it found secrets: no test hears of another."""
    monkeypatch.setattr(secrets, "_exported", {})


@pytest.fixture(scope="session", autouse=True)
def one_core_for_llama_cpp():
    """As OMP_NUM_THREADS=1 for torch: by itself it takes all cores, and spins on those that another worker has."""
    import xllamacpp

    class Params(xllamacpp.CommonParams):
        def __init__(self):
            self.cpuparams.n_threads = self.cpuparams_batch.n_threads = 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xllamacpp, "CommonParams", Params)
        yield


@pytest.fixture(scope="session")
def r1_tokenizer():
    """R1's special tokens and template; the tokenizer of the `tiny` model."""
    from helpers.models.loading import load_tokenizer

    return load_tokenizer(Config.resolve("smoke").model)


@pytest.fixture(scope="session")
def smollm_tokenizer():
    """SmolLM2's, of the `embedded` model: ChatML, no beginning-of-sequence token, no token for the tags."""
    from helpers.models.loading import load_tokenizer

    return load_tokenizer(Config.resolve("laptop").model)


@pytest.fixture(scope="session")
def sample_rows():
    return read_jsonl(SAMPLE)


@pytest.fixture(scope="session")
def real_rows():
    if not REAL_ROWS.is_file():
        pytest.skip("the real rows in ../shared/data are not here")
    return read_jsonl(REAL_ROWS)


@pytest.fixture(scope="session")
def corpora():
    if not CORPORA.is_dir():
        pytest.skip("the real corpora in ../shared/knowledge are not here")
    return CORPORA


@pytest.fixture
def write(tmp_path):
    """`write("a/b.xml.gz", text)` below tmp_path; text as UTF-8, gzipped where the name says so; gives the path."""

    def call(name, content):
        path = tmp_path / Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        return path

    return call


@pytest.fixture
def cli(monkeypatch, capfd):
    """`cli("run", "--only", "03")` in this process; gives status, out and err as the shell would see them."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["helpers", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(status=ended.value.code or 0, out=out, err=err)

    return call


@pytest.fixture
def unasked(monkeypatch):
    """Settings may name what is on the hub, which nobody is asked for."""
    monkeypatch.setattr("helpers.run_dir.source_check.check_sources", lambda config, changed: None)


def error_line(result) -> str:
    """What a wrong input must come to: status 2 and one line, which is returned."""
    assert result.status == 2
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    return lines[0]


def refusal(call, *args, **named) -> str:
    """The one line with which a call refuses what it is given."""
    with pytest.raises(InputError) as caught:
        call(*args, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(error: BaseException):
    """A function that raises the error, whatever it is called with."""

    def fail(*_, **__):
        raise error

    return fail


@contextmanager
def settings_read():
    """Collects the dotted settings that are read in the block, but for those that only modules in LEFT_OUT read."""
    names = {field.annotation: f"{name}." for name, field in Config.model_fields.items() if "." not in name}
    shown, read = {"helpers." + name.removesuffix(".py").replace("/", ".") for name in LEFT_OUT}, set()

    def getting(self, name):
        fields = {key for key, field in type(self).model_fields.items() if not field.exclude}  # `commit` is no setting
        found = [name] if name in fields else [*fields] if name in ("model_dump", "model_copy") else []
        found = [] if type(self) is Config and name not in ("seed", "profile") else found
        frame = sys._getframe(1)
        while frame and found:
            found = [] if frame.f_globals.get("__name__") in shown else found
            frame = frame.f_back
        read.update(names.get(type(self), "") + field for field in found)
        return object.__getattribute__(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Section, "__getattribute__", getting, raising=False)
        yield read


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, sample_rows):
    """A folder with what 02 to 07 leave, made by the tiny model: run, and by stage the settings that it has read.

    Its adapter is random, not trained, and 06 has merged without converting.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from helpers.baseline_inference import predict_baseline
    from helpers.dataset_prep.prepare import prepare
    from helpers.evaluation.evaluate import evaluate
    from helpers.export.files import check_room
    from helpers.export.gguf import write_modelfile
    from helpers.export.merge import merge
    from helpers.models.loading import load_base, load_tokenizer
    from helpers.retrieval.reading import read_and_answer

    few = {"evaluation.max_validation": 2, "evaluation.max_questions": 2, "generation.max_new_tokens": 8}
    run, read = open_run("smoke", tmp_path_factory.mktemp("tiny") / "run", few), {}
    with settings_read() as read["02_baseline_inference"], pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", lambda *_, **__: SimpleNamespace(update=lambda shown: None))
        tokenizer, model = load_tokenizer(run.config.model), load_base(run.config)
        predict_baseline(run, model, tokenizer)
    with settings_read() as read["03_dataset_prep"]:
        prepare(run, load_tokenizer(run.config.model))
    torch.manual_seed(0)
    how = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, how).save_pretrained(run / "adapter")
    with settings_read() as read["05_evaluation"]:
        evaluate(run)
    with settings_read() as read["06_export"]:
        check_room(run)
        merge(run)
        write_modelfile(run, load_tokenizer(run.config.model), run / "export/model-f16.gguf")
    with settings_read() as read["07_retrieval"]:
        read_and_answer(run)
    return SimpleNamespace(run=run, read=read)


@pytest.fixture(scope="session")
def short_rows(sample_rows):
    return sorted(sample_rows, key=lambda row: sum(map(len, row.values())))[:12]


@pytest.fixture(scope="session")
def base():
    """The tiny model as every stage loads it; who changes it takes a copy."""
    from helpers.config import Config
    from helpers.models.loading import load_base

    return load_base(Config.resolve("smoke"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A run folder with the results of 03 to 05; of the four choice questions one got worse and one better."""
    from evaluated_rows import choice, unseen

    from helpers.evaluation.metrics import summarise
    from helpers.files import write_json
    from helpers.run_dir.folder import open_run

    run = open_run("smoke", tmp_path_factory.mktemp("runs") / "finished")

    def quiz(letters):
        replies = [f"Thought {i}.</think>The answer is {letter}." for i, letter in enumerate(letters)]
        two = {"A": "one", "B": "two"}
        return [choice("quiz", i, "B", letters[i], options=two, reply=reply) for i, reply in enumerate(replies)]

    base = [unseen(i, 3.0 + i / 10, False, True, 5, "It goes on and on") for i in range(3)] + quiz("BABB")
    tuned = [unseen(i, 2.5 + i / 10, True, True, 5, "Thought.</think>Answer.") for i in range(3)] + quiz("ABBB")
    for side, rows in (("base", base), ("tuned", tuned)):
        write_jsonl(run / f"evaluation/predictions.{side}.jsonl", rows)
    write_json(run / "evaluation/metrics.json", summarise(base, tuned))
    nll = {"before": 3.1, "after": 2.6}
    training = {"steps": 4, "tokens_per_second": 93.0, "peak_memory_gib": 1.5, "validation_nll": nll}
    write_json(run / "training/metrics.json", training)
    write_jsonl(run / "training/log.jsonl", [{"step": i, "loss": 3 - i / 10} for i in range(4)])
    histogram = {"edges": [0, 256, 512], "train": [4, 2], "validation": [1, 1], "test": [0, 1]}
    step = {"rule": "validate", "rows_in": 10, "rows_out": 9, "reasons": {"no answer": 1}, "lines": {}, "seconds": 0.0}
    splits = {"train": 6, "validation": 2, "test": 1}
    report = {"provenance": {"source": "sample"}, "steps": [step], "splits": splits, "tokens": {"histogram": histogram}}
    write_json(run / "data/report.json", report)
    return run
