"""Revisions of the hub: what a run loaded is in its record, and is what it loads again after the hub has moved on."""

import shutil
from itertools import pairwise
from types import SimpleNamespace

import pytest
import yaml
from fake_hub import COMMIT, FakeHub
from huggingface_hub import constants

from helpers import InputError
from helpers.config import Config
from helpers.files import write_json
from helpers.models.loading import context_length
from helpers.run_dir.folder import note_in_record, open_run
from helpers.sources import rows
from helpers.use.server import ServerSettings, vllm_options

NEWER = "decade" + "0" * 34
ME = {"model.name": "me/model"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in is this process's hub, with an empty cache."""
    hub = FakeHub({"models/me/model": {"config.json": b'{"model_type": "llama", "max_position_embeddings": 77}'}})
    url = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    yield hub
    hub.close()


def loaded(run):
    """The commits that loading a run's model asks for."""
    assert context_length(run.config.model) == 77
    return run.config.model.commit


def test_a_run_keeps_the_commit_of_its_first_opening(hub, tmp_path):
    run = open_run("smoke", tmp_path / "run", ME)
    assert run.record["model"] == {"source": "me/model", "revision": COMMIT}
    hub.commits.append(NEWER)
    for opened in (run, open_run("smoke", tmp_path / "run", ME), open_run("auto", tmp_path / "run")):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        hub.asked.clear()
        assert loaded(opened) == COMMIT
        assert f"HEAD /me/model/resolve/{COMMIT}/config.json" in hub.asked
        assert not [path for path in hub.asked if NEWER in path or "main" in path]
    assert loaded(open_run("smoke", tmp_path / "new", ME)) == NEWER


def test_a_commit_that_is_gone_is_one_line(hub, tmp_path):
    run = open_run("smoke", tmp_path / "run", ME)
    hub.commits[:] = [NEWER]
    assert loaded(run) == COMMIT  # from the cache
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match=f"cannot load me/model: it has no revision '{COMMIT}'"):
        context_length(run.config.model)


def test_force_takes_the_newest_and_a_named_revision_is_kept(hub, tmp_path):
    run = open_run("smoke", tmp_path / "run", ME)
    write_json(run / "baseline/x", {})
    note_in_record(run, data={"source": "x", "revision": COMMIT})
    hub.commits.append(NEWER)
    forced = open_run("auto", run.path, {"lora.r": 8}, force=True)
    assert (forced.config.model.commit, forced.config.data.commit) == (COMMIT, COMMIT)  # of both nothing was set aside
    forced = open_run("auto", run.path, {"model.max_length": 70}, force=True)
    assert (forced.config.model.commit, forced.config.data.commit) == (NEWER, None)
    named = open_run("smoke", tmp_path / "named", ME | {"model.revision": COMMIT})
    assert loaded(named) == COMMIT


def test_a_folder_from_before_keeps_its_results_and_asks_nobody(hub, tmp_path):
    run = open_run("smoke", tmp_path / "run", ME)
    write_json(run / "adapter/adapter_config.json", {})
    record = {name: fact for name, fact in run.record.items() if name != "model"}
    (run / "run.yaml").write_text(yaml.safe_dump(record))
    hub.asked.clear()
    old = open_run("smoke", run.path, ME)
    assert old.config.model.commit is None
    assert (hub.asked, old.record) == ([], record)
    assert not (run / "earlier").exists()


def test_without_the_hub_the_commit_is_the_caches(hub, tmp_path, monkeypatch):
    loaded(open_run("smoke", tmp_path / "first", ME))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_run("smoke", tmp_path / "second", ME).record["model"]["revision"] == COMMIT
    with pytest.raises(InputError, match=r"^model\.name: cannot get me/another: offline mode is on"):
        open_run("smoke", tmp_path / "third", {"model.name": "me/another"})
    assert not (tmp_path / "third").exists()


def test_a_models_folder_has_no_commit(hub, tmp_path):
    for name in ("tiny", str(tmp_path)):
        assert "model" not in open_run("smoke", tmp_path / f"run-{len(name)}", {"model.name": name}).record
    assert hub.asked == []


def test_rows_are_read_at_the_commit_in_the_record(tmp_path, unasked, monkeypatch):
    asked = []

    def hub_table(name, config, split, revision, instead):
        asked.append(revision)
        cells = {"Question": "q", "Complex_CoT": "c", "Response": "r"}
        return [cells], COMMIT, config

    monkeypatch.setattr(rows, "hub_table", hub_table)
    run = open_run("smoke", tmp_path, {"data.source": "hub", "data.revision": "v1"})
    _, provenance = rows.read_rows(run.config.data, 1)
    write_json(run / "data/report.json", {})
    note_in_record(run, data=provenance)
    rows.read_rows(open_run("auto", tmp_path).config.data, 1)
    assert asked == ["v1", COMMIT]


def test_the_commit_is_no_setting_and_goes_to_vllm_too(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.use.server.load_tokenizer", lambda _: SimpleNamespace(get_vocab=dict))
    run = open_run("smoke", tmp_path / "run", ME)
    assert run.config.flat() == Config.resolve("smoke", ME).flat()
    with pytest.raises(InputError, match=r"unknown key 'model\.commit'"):
        open_run("smoke", tmp_path / "run", {"model.commit": NEWER})
    (run / "export/merged").mkdir(parents=True)
    for side, revisions in (("base", [COMMIT]), ("tuned", [])):
        options = vllm_options(run, side, ServerSettings(), tmp_path)
        assert [value for name, value in pairwise(options) if name == "--revision"] == revisions
