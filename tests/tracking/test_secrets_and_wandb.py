"""Secrets: where they are looked for and that they go nowhere else; what W&B is told."""

import itertools
import os
import re
import socket
import subprocess
import sys
import types

import huggingface_hub
import pytest
from conftest import fails
from fake_server import Server

from helpers import PROJECT_ROOT, InputError
from helpers.config import Config
from helpers.files import write_json
from helpers.run_dir.folder import Run, note_in_record, open_run
from helpers.tracking import wandb_run
from helpers.tracking.secrets import SECRETS, export_secrets
from helpers.tracking.wandb_run import wandb_mode

KEY = "hf_0123456789abcdefghijklmnopqrstuv"


WANDB_VARIABLES = ("MODE", "DISABLED", "PROJECT", "ENTITY", "DIR", "SILENT", "INIT_TIMEOUT", "BASE_URL")


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch, tmp_path):
    """An environment without keys and logins, put back as it was afterwards, whatever a test exports."""
    variables = [*itertools.chain(*SECRETS.values()), *(f"WANDB_{name}" for name in WANDB_VARIABLES)]
    for name in variables:
        monkeypatch.setenv(name, "")  # noted for the way back, also where it was absent
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no netrc"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))


def colab(monkeypatch, get):
    """Colab's module with this `userdata.get`."""
    module, userdata = types.ModuleType("google.colab"), types.ModuleType("google.colab.userdata")
    userdata.get, module.userdata = get, userdata
    import google

    monkeypatch.setattr(google, "colab", module, raising=False)
    for name, value in (("google", google), ("google.colab", module), ("google.colab.userdata", userdata)):
        monkeypatch.setitem(sys.modules, name, value)


class NotebookAccessError(Exception):
    """What Colab raises when the notebook may not see a secret."""


def test_without_anything_a_secret_is_not_set():
    assert export_secrets() == dict.fromkeys(SECRETS, "not set")
    assert not set(SECRETS) & set(os.environ)


def test_the_environment_comes_first(monkeypatch):
    colab(monkeypatch, lambda name: pytest.fail("Colab was asked"))
    for name in SECRETS:
        monkeypatch.setenv(name, KEY)
    assert export_secrets() == dict.fromkeys(SECRETS, "environment")


def test_colabs_secrets_come_next_and_go_where_the_libraries_look(monkeypatch):
    colab(monkeypatch, {"HF_TOKEN": KEY, "WANDB_API_KEY": "", "NCBI_API_KEY": KEY}.get)
    expected = {"HF_TOKEN": "Colab secrets", "WANDB_API_KEY": "not set", "NCBI_API_KEY": "Colab secrets"}
    assert export_secrets() == expected
    assert os.environ["HF_TOKEN"] == KEY
    assert "WANDB_API_KEY" not in os.environ


@pytest.mark.parametrize("error", [NotebookAccessError, TimeoutError, ImportError, AttributeError, KeyError])
def test_a_refusal_of_colabs_means_not_set(monkeypatch, error):
    colab(monkeypatch, fails(error("a name")))
    assert export_secrets() == dict.fromkeys(SECRETS, "not set")
    assert wandb_mode("auto") == "offline"


def test_kaggles_secrets_come_after_colabs(monkeypatch):
    colab(monkeypatch, {"WANDB_API_KEY": "from colab"}.get)
    kaggle = types.ModuleType("kaggle_secrets")
    kaggle.UserSecretsClient = lambda: types.SimpleNamespace(get_secret=lambda name: KEY)
    monkeypatch.setitem(sys.modules, "kaggle_secrets", kaggle)
    found = dict.fromkeys(SECRETS, "Kaggle secrets") | {"WANDB_API_KEY": "Colab secrets"}
    assert export_secrets() == found
    assert os.environ["HF_TOKEN"] == KEY
    assert export_secrets() == found  # not "environment", where they are now


def test_a_stored_login_is_found_and_left_where_it_is(monkeypatch, tmp_path):
    login = f"machine {{}}\n  login user\n  password {'n' * 40}\n"
    hosts = ("api.wandb.ai", "wandb.example.org")
    (tmp_path / "netrc").write_text("".join(map(login.format, hosts)))
    (tmp_path / "token").write_text(KEY + "\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert export_secrets() == dict.fromkeys(SECRETS, "stored login") | {"NCBI_API_KEY": "not set"}
    assert not set(SECRETS) & set(os.environ)
    assert wandb_mode("auto") == wandb_mode("online") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert export_secrets()["WANDB_API_KEY"] == "stored login"
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example.org")
    assert export_secrets()["WANDB_API_KEY"] == "not set"
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / "netrc").write_text("machine\n")  # not a netrc file
    assert export_secrets()["WANDB_API_KEY"] == "not set"


def test_the_older_name_of_the_hubs_token_is_heard(monkeypatch):
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", KEY)
    assert export_secrets()["HF_TOKEN"] == "environment"


def test_a_secret_is_not_in_the_record_of_a_run(tmp_path, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, KEY)
    export_secrets()
    open_run("smoke", tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["run.yaml"]
    assert KEY not in (tmp_path / "run.yaml").read_text()


# Weights & Biases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "online"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "online"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "disabled"),
    ],
)
def test_wandbs_own_variables_are_heard_with_a_key(monkeypatch, variables, mode):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode("auto") == mode
    assert wandb_mode("offline") == "offline"  # a setting that is not auto was meant
    assert wandb_mode("online") == "online"


def test_a_mode_that_wandb_does_not_know(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InputError, match="WANDB_MODE = 'onlin' is none of online, offline, disabled"):
        wandb_mode("auto")


def test_online_without_a_key_is_an_error_and_not_a_question(monkeypatch):
    with pytest.raises(InputError, match=r"tracking.wandb = 'online' requires an API key: set WANDB_API_KEY"):
        wandb_mode("online")
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match="WANDB_MODE = 'online' requires an API key"):
        wandb_mode("auto")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode("online") == "online"


def test_disabled_tracking_does_not_touch_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    with wandb_run.tracked(Run(tmp_path, Config.resolve("smoke")), "job") as tracker:
        assert tracker is None
    wandb_run.log_table(None, "replies", [{"a": 1}])
    assert list(tmp_path.iterdir()) == []


# Run in a process of its own: a job named training in the run folder argv[1].
CHILD = """
import sys, time
from helpers.run_dir.folder import open_run
from helpers.tracking.wandb_run import tracked
run, started = open_run("auto", sys.argv[1]), time.monotonic()
with tracked(run, "training") as tracker:
    print("SECONDS", time.monotonic() - started)
    if tracker:
        tracker.log({"loss": 1.0})
"""


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("k" * 40, r"W&B online fails \(.*Connection refused"),
        ("wrong", r"W&B cannot start \(.*API key must have 40"),
        ("revoked", r"W&B cannot start \(.*401"),
        pytest.param("silent", r"W&B online fails \(", marks=pytest.mark.slow),
    ],
)
def test_a_key_without_a_network_goes_offline_and_a_wrong_one_is_not_tracked_with_one_line(tmp_path, key, says):
    """By W&B itself. A server that never answers is given up soon."""
    open_run("smoke", tmp_path / "run", {"tracking.wandb": "auto"})
    answers = Server([], status=401).url.removesuffix("/v1")
    address = answers if key in ("wrong", "revoked") else "http://127.0.0.1:9"
    more = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    more |= {"WANDB_API_KEY": "k" * 40 if key in ("silent", "revoked") else key}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if key == "silent":
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path / "run"],
            cwd=PROJECT_ROOT,
            env=os.environ | more | {"WANDB_BASE_URL": address},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    line, seconds = done.stdout.splitlines()
    assert re.match(says, line)
    assert float(seconds.removeprefix("SECONDS ")) < 60
    assert len(list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))) == (key not in ("wrong", "revoked"))


@pytest.fixture
def wandb(monkeypatch):
    """A wandb whose `init` fails in the modes in `broken`; `inits` are its arguments, `ended` the jobs' statuses."""
    fake = types.SimpleNamespace(broken={}, inits=[], ended=[], Settings=dict)

    def init(**arguments):
        fake.inits.append(types.SimpleNamespace(**arguments))
        if arguments["mode"] in fake.broken:
            raise fake.broken[arguments["mode"]]
        return types.SimpleNamespace(finish=lambda exit_code=0: fake.ended.append(exit_code))

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(wandb_run.httpx, "get", lambda *_, **__: None)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    return fake


def test_a_job_that_failed_is_recorded_so_and_goes_on_in_the_same_run_until_it_is_done(wandb, tmp_path, monkeypatch):
    run = open_run("smoke", tmp_path / "run", {"tracking.wandb": "offline"})
    note_in_record(run, data={"fingerprint": "abc"})
    with pytest.raises(RuntimeError), wandb_run.tracked(run, "training"):
        raise RuntimeError("in the job")
    with wandb_run.tracked(run, "training"):
        write_json(run / "training/metrics.json", {"steps": 4})
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with wandb_run.tracked(run, "training"):
        pass
    assert wandb.ended == [1, 0, 0]
    failed, done, other = wandb.inits
    assert failed.id == done.id != other.id
    assert (failed.resume, failed.mode) == ("allow", "offline")
    assert (failed.project, failed.group, failed.name) == ("ai-doctor", "run", "run-training")
    assert (failed.config["lora.r"], failed.config["run"]["data"]["fingerprint"]) == (4, "abc")
    assert other.project == "mine"


@pytest.mark.parametrize("error", [OSError("Network is unreachable"), TimeoutError(), RuntimeError("ssl")])
def test_whatever_wandb_says_of_the_network_the_job_goes_on(wandb, tmp_path, capsys, monkeypatch, error):
    monkeypatch.setattr(wandb_run.httpx, "get", fails(error))
    run = open_run("smoke", tmp_path / "run", {"tracking.wandb": "auto"})
    with wandb_run.tracked(run, "training") as tracker:
        assert tracker
    assert [init.mode for init in wandb.inits] == ["offline"]
    assert capsys.readouterr().out.startswith("W&B online fails (")
    wandb.broken = {"offline": OSError(28, "No space left on device")}
    with wandb_run.tracked(run, "training") as tracker:
        assert tracker is None
    assert capsys.readouterr().out.splitlines()[-1].endswith("No space left on device): no tracking")
