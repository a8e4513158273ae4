"""What makes a stage run again: each setting, file and module by name, and that the tables say what is true."""

import json
import shutil
from dataclasses import replace

import pytest
from conftest import settings_read

from helpers import PROJECT_ROOT
from helpers.config import Config
from helpers.dataset_prep.prepare import prepare
from helpers.files import write_text
from helpers.questions import benchmarks
from helpers.run_dir.folder import Run, open_run
from helpers.run_dir.layout import STAGES
from helpers.run_dir.modules import LEFT_OUT, code_of
from helpers.series import stages
from helpers.series.stages import FOR_PASSAGES, WEIGHTS, changes, notebook_code, stage_inputs, trained_by_other_code

NAMES = list(STAGES)
ALL = "01 02 03 04 05 06 07"
# Every module and packaged file, with the stages that a change of it runs again.
RUNS = {
    "__init__.py": "", "__main__.py": "", "baseline_inference.py": "02", "baseline_questions.jsonl": "02 03 05 06 07",
    "chat_template.gotmpl": ALL, "chat_template.jinja": ALL, "config.py": ALL, "dataset_prep/__init__.py": "",
    "dataset_prep/open_book.py": "03", "dataset_prep/overlap.py": "03", "dataset_prep/prepare.py": "03",
    "dataset_prep/remarks.py": "", "dataset_prep/similarity.py": "03", "evaluation/__init__.py": "",
    "evaluation/evaluate.py": "05", "evaluation/lm_eval_tasks.py": "05",
    "evaluation/metrics.py": "05", "evaluation/remarks.py": "", "export/__init__.py": "", "export/check.py": "06",
    "export/files.py": "06", "export/gguf.py": "06", "export/merge.py": "06", "export/quantise.py": "06",
    "export/remarks.py": "", "files.py": ALL, "generation/__init__.py": "", "generation/decoding.py": "02 05 07",
    "generation/replies.py": "02 05 07", "generation/sampling.py": "02 05 07", "gpus.yaml": ALL,
    "handbook.jsonl": "03 07", "index.html.j2": "", "knowledge/__init__.py": "03 07", "knowledge/cnxml.py": "03 07",
    "knowledge/cnxml_tables.py": "03 07", "knowledge/corpora.py": "03 07", "knowledge/dense.py": "03 07",
    "knowledge/documents.py": "03 07", "knowledge/engines.py": "03 07", "knowledge/entrez.py": "",
    "knowledge/html_text.py": "03 07", "knowledge/importing.py": "03 07", "knowledge/index.py": "03 07",
    "knowledge/library.py": "03 07", "knowledge/licences.py": "03 07", "knowledge/markup.py": "03 07",
    "knowledge/medquad.py": "03 07", "knowledge/own_files.py": "03 07", "knowledge/pubmed.py": "03 07",
    "knowledge/store.py": "03 07", "knowledge/synonyms.py": "03 07", "knowledge/terms.py": "03 07",
    "lora_training/__init__.py": "", "lora_training/backends.py": "04", "lora_training/batches.py": "04",
    "lora_training/budget.py": "", "lora_training/checkpoints.py": "04", "lora_training/journal.py": "04",
    "lora_training/remarks.py": "", "lora_training/stopping.py": "", "lora_training/train.py": "04",
    "losses.py": "02 04 05 06 07", "machine/__init__.py": ALL, "machine/hardware.py": ALL, "machine/processes.py": ALL,
    "model_card.md.j2": "", "models/__init__.py": "", "models/converter.py": "01 06", "models/loading.py": ALL,
    "models/packaged.py": ALL, "models/portable.py": ALL, "profiles.yaml": "", "prompts/__init__.py": "",
    "prompts/chat_template.py": ALL, "prompts/encoding.py": ALL, "prompts/families.py": ALL,
    "prompts/passages.py": "03 07", "prompts/refusals.py": "", "questions/__init__.py": "",
    "questions/benchmarks.py": "", "questions/multiple_choice.py": "02 03 05 06 07", "r1_style_template.jinja": ALL,
    "report/__init__.py": "", "report/drawings.py": "", "report/markdown.py": "", "report/model_card.py": "",
    "report/plots.py": "", "report/results.py": "", "retrieval/__init__.py": "", "retrieval/finding.py": "07",
    "retrieval/reading.py": "07", "retrieval/remarks.py": "", "run_dir/__init__.py": "", "run_dir/backup.py": "",
    "run_dir/folder.py": ALL, "run_dir/layout.py": "", "run_dir/modules.py": "", "run_dir/owner.py": "",
    "run_dir/source_check.py": "", "run_dir/stopping.py": "", "sample.jsonl": "03",
    "sample_questions.jsonl": "02 03 05 06 07", "scoring/__init__.py": "", "scoring/answers.py": "05 07",
    "scoring/choice.py": "05 07", "scoring/statistics.py": "05 06 07", "scoring/verdicts.py": "",
    "series/__init__.py": "", "series/runner.py": "", "series/stages.py": "", "setup.py": "", "sources/__init__.py": "",
    "sources/hub.py": ALL, "sources/rows.py": "03",
    "sources/tables.py": ALL, "tracking/__init__.py": "",
    "tracking/progress.py": "", "tracking/secrets.py": "", "tracking/wandb_run.py": "", "use/__init__.py": "",
    "use/ask.py": "", "use/citations.py": "", "use/client.py": "", "use/proxy.py": "", "use/publish.py": "",
    "use/server.py": "", "vllm_reasoning_parser.py": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the helpers that may be changed."""
    folder = tmp_path_factory.mktemp("package") / "helpers"
    shutil.copytree(PROJECT_ROOT / "helpers", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def keys(package):
    """By stage the fingerprints of its code."""
    return {name[:2]: code_of(notebook_code(name), package=package) for name in NAMES}


@pytest.fixture(scope="module")
def before(package):
    return keys(package)


def packaged():
    """By name, as in the keys, every module and file but those of the app, which no stage imports."""
    paths = [path for path in (PROJECT_ROOT / "helpers").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    apart = [path for path in paths if path.parent.name != "app"]
    package = PROJECT_ROOT / "helpers"
    data = (".yaml", ".j2")
    return {
        path.name if path.parent.name == "data" or path.suffix in data else path.relative_to(package).as_posix(): path
        for path in apart
    }


def test_the_table_below_names_every_module_and_file():
    assert sorted(packaged()) == sorted(RUNS)
    assert packaged().keys() >= LEFT_OUT
    assert all(not RUNS[name] for name in LEFT_OUT)


def test_each_stage_depends_on_the_modules_and_files_that_decide_on_it(before):
    assert {name: " ".join(stage for stage in before if name in before[stage]) for name in RUNS} == RUNS


def test_a_changed_module_or_file_has_another_fingerprint(package, before):
    """All at once: each fingerprint is of one module or file, so that none hides another."""
    paths = {name: package / path.relative_to(PROJECT_ROOT / "helpers") for name, path in packaged().items()}
    contents = {path: path.read_bytes() for path in paths.values()}
    try:
        for path, content in contents.items():
            path.write_bytes(content + b"\nCHANGED = 1\n")
        now = keys(package)
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert {stage: [name for name in RUNS if now[stage].get(name) != before[stage].get(name)] for stage in now} == {
        stage: [name for name in RUNS if name in before[stage]] for stage in before
    }


@pytest.mark.parametrize(
    ("name", "table", "row"),
    [
        ("prompts/refusals.py", "REFUSALS = {\n", '    "Bar": ("<|bar|>",),\n'),
        (
            "questions/benchmarks.py",
            "BENCHMARKS = {\n",
            '    "own": Benchmark("me/own", None, "test", _mmlu, ("mit", "MIT")),\n',
        ),
    ],
)
def test_another_row_of_refused_families_or_of_benchmarks_runs_no_stage_again(package, before, name, table, row):
    """Else the next run would set a finished training aside and train anew."""
    path = package / name
    content = path.read_text(encoding="utf-8")
    assert table in content
    path.write_text(content.replace(table, table + row), encoding="utf-8")
    try:
        assert keys(package) == before
    finally:
        path.write_text(content, encoding="utf-8")


def test_a_benchmark_that_is_asked_is_an_input(tmp_path, monkeypatch):
    asked = {**Config.resolve("smoke").flat(), "evaluation.questions": ["sample", "mmlu_medical"]}
    run = Run(tmp_path, Values(asked))
    before = stage_inputs(run, "05_evaluation")["files"]
    assert "mmlu_anatomy" in before
    changed = {
        "dataset": "other/mmlu",
        "config": "virology",
        "split": "validation",
        "question": lambda row: {"question": row["question"]},
    }
    for name, value in changed.items():
        row = replace(benchmarks.BENCHMARKS["mmlu_anatomy"], **{name: value})
        with monkeypatch.context() as patch:
            patch.setitem(benchmarks.BENCHMARKS, "mmlu_anatomy", row)
            now = stage_inputs(run, "05_evaluation")["files"]
        assert {key for key in now if now[key] != before[key]} == {"mmlu_anatomy"}, name


def test_comments_docstrings_and_layout_do_not_count(package, before):
    path = package / "scoring/choice.py"
    content = path.read_text(encoding="utf-8")
    path.write_text('"""Another docstring."""\n# A comment.\n\n\n' + content.partition('"""\n')[2], encoding="utf-8")
    try:
        assert keys(package) == before
    finally:
        path.write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    "source",
    [
        "import helpers.inner",
        "from helpers import inner",
        "from helpers.inner import x",
        "def f():\n    from helpers.inner import x",
        "if True:\n    import helpers.inner as y",
    ],
)
def test_an_import_counts_wherever_it_stands(tmp_path, source):
    write_text(tmp_path / "outer.py", source)
    write_text(tmp_path / "inner.py", "x = open('table.yaml')")
    write_text(tmp_path / "data/table.yaml", "a: 1")
    assert code_of("from helpers.outer import f", (), tmp_path).keys() == {"outer.py", "inner.py", "table.yaml"}
    assert code_of("from helpers.outer import f", ("inner.py",), tmp_path).keys() == {
        "outer.py"
    }  # nor what it alone reads


def test_the_cells_that_find_the_project_and_name_the_version_do_not_count():
    for name in NAMES:
        assert "VERSION" not in notebook_code(name)
        assert "PROFILE =" not in notebook_code(name)
        assert "open_run(" in notebook_code(name)


# Settings --------------------------------------------------------------------------------------------------------

READERS = {
    "seed": "02 03 04 05 06 07", "model": "01 02 03 04 05 06 07", "data": "03", "lora": "04", "training": "04",
    "generation": "02 05 06 07", "evaluation.max_validation": "04 05", "evaluation.rows": "05",
    "evaluation.questions": "03 05 07",
    "evaluation.max_questions": "03 05 07",
    "export": "06", "retrieval": "07", "data.corpus": "03 04", "tracking": "01 04 05", "profile": "", "session": "",
}  # fmt: skip


@pytest.mark.parametrize("key", Config.resolve("smoke").flat())
def test_a_changed_setting_runs_the_stages_that_read_it(tmp_path, monkeypatch, key):
    monkeypatch.setattr(stages, "code_of", lambda *_: {})
    flat = Config.resolve("smoke").flat()
    other = {"profile": "t4", "data.source": "hub", "evaluation.questions": ["medqa"]}.get(key, "another")
    before, now = (
        {name[:2]: stage_inputs(Run(tmp_path, Values(values)), name) for name in NAMES}
        for values in (flat, {**flat, key: other})
    )
    changed = " ".join(stage for stage in now if now[stage] != before[stage])
    assert changed == READERS.get(key, READERS.get(key.split(".")[0]))


def test_the_table_of_settings_is_what_the_stages_read(tiny_run):
    """04 is looked at in test_training, where there is a training."""
    for stage, read in tiny_run.read.items():
        known = stage_inputs(tiny_run.run, stage)["settings"].keys() | {"profile", "session.backup"}
        assert read - known == set(), stage
    assert tiny_run.read["03_dataset_prep"] >= {"data.near_duplicate", "evaluation.questions", "seed"}
    assert tiny_run.read["05_evaluation"] >= {"evaluation.max_validation", "generation.temperature", "model.max_length"}


def test_the_settings_that_03_reads_for_passages_count_where_it_reads_them(tmp_path, r1_tokenizer):
    run = open_run("smoke", tmp_path / "run", {"data.passages": 0.5, "data.sample_size": 20})
    with settings_read() as read:
        prepare(run, r1_tokenizer)
    inputs = stage_inputs(run, "03_dataset_prep")
    assert read - inputs["settings"].keys() <= {"session.backup"}  # which decides nothing
    assert {key for key in read if key.startswith("retrieval.")} == {*FOR_PASSAGES}
    assert "handbook" in inputs["files"]


class Values:
    """Stands in for a Config whose values need not be valid."""

    def __init__(self, values):
        self.values = values

    def flat(self):
        return self.values


# What has changed ------------------------------------------------------------------------------------------------


def inputs(code=(), settings=(), files=()):
    return {"settings": dict(settings), "files": dict(files), "modules": {"notebook": "n", **dict(code)}}


def test_what_has_changed_is_named():
    old = inputs(
        {"scoring/choice.py": "a", "sample.jsonl": "b"}, {"lora.r": 4, "seed": None}, {"data/train.jsonl": "c"}
    )
    new = inputs({"scoring/choice.py": "A", "new.py": "d"}, {"lora.r": 8, "seed": None}, {"data/train.jsonl": "C"})
    assert changes(old, new) == [
        "lora.r", "data/train.jsonl", "helpers/scoring/choice.py", "sample.jsonl", "helpers/new.py",
    ]  # fmt: skip
    assert changes(old, old) == []
    assert changes(json.loads(json.dumps(old)), old) == []
    assert changes({**new, "modules": {**new["modules"], "notebook": "N"}}, new) == ["notebook"]
    assert changes({}, new) == []


# 04's other modules and files: a new one is here or in WEIGHTS.
MESSAGES = {
    *("chat_template.gotmpl", "chat_template.jinja", "config.py", "files.py", "gpus.yaml", "machine/__init__.py"),
    *("lora_training/checkpoints.py", "lora_training/journal.py", "machine/hardware.py", "machine/processes.py"),
    *("models/portable.py", "prompts/chat_template.py", "r1_style_template.jinja", "run_dir/folder.py"),
    *("sources/hub.py", "sources/tables.py"),
}


def test_a_training_is_of_other_code_where_its_weights_are_and_not_where_a_message_is():
    """An update that changes another module must not cost the hours of a training."""
    assert code_of(notebook_code("04_lora_training")).keys() - MESSAGES == set(WEIGHTS)
    old = inputs(dict.fromkeys(WEIGHTS, "a") | {"sources/hub.py": "a"})
    for name in WEIGHTS:
        assert trained_by_other_code(old, inputs(old["modules"] | {name: "A"}))
    assert trained_by_other_code(inputs({"sources/hub.py": "a"}), old)
    assert not trained_by_other_code(inputs(old["modules"] | {"sources/hub.py": "A", "notebook": "N"}), old)
    assert not trained_by_other_code({**old, "files": {"data/train.jsonl": "other"}}, old)
    assert not trained_by_other_code({}, old)


def test_a_corpus_with_a_link_that_leads_nowhere_has_a_listing(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    before = stages._listing(str(tmp_path))
    (tmp_path / "long.txt").symlink_to("n" * 300)
    assert stages._listing(str(tmp_path)) != before
