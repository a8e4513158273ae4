"""The hub as it answers: the real libraries against a stand-in over HTTP, in processes that have that for their hub."""

import errno
import json
import os
import socket
import subprocess
import sys
from itertools import islice
from types import SimpleNamespace

import httpx
import pytest
from fake_hub import COMMIT, FakeHub
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status
from safetensors import SafetensorError

from helpers import PROJECT_ROOT
from helpers.config import Config
from helpers.files import write_json
from helpers.questions.benchmarks import BENCHMARKS
from helpers.sources.hub import HUB_DATASET, explain, hub_dataset, nameless_base, public_name

DISTILLED = "FreedomIntelligence/Medical-R1-Distill-Data"
MEDQA = BENCHMARKS["medqa"].dataset
COLUMNS = ("Question", "Complex_CoT", "Response")
TERMS, TOKENS = "accept its terms at https://huggingface.co/", "(https://huggingface.co/settings/tokens)"

# Run in a process of its own: one JSON line for each call, what was loaded or what was said, and the seconds.
CHILD = """
import json, os, sys, time
from transformers import AutoConfig
from helpers import InputError
from helpers.questions.multiple_choice import benchmark_rows
from helpers.config import Config
from helpers.sources.rows import read_rows
from helpers.models.loading import check_model
from helpers.run_dir.folder import open_run
from helpers.sources.hub import ask_first, explain

def model(name, revision=None):
    try:
        ask_first(name, revision)
        return type(AutoConfig.from_pretrained(name, revision=revision or "main")).__name__
    except Exception as error:
        return explain(error, name, revision)

def rows(**changes):
    read, provenance = read_rows(Config.resolve("t4", {f"data.{k}": v for k, v in changes.items()}).data, 1)
    return [[row["Question"] for row in read], provenance]

CALLS = {
    "model": model,
    "rows": lambda changes: rows(**changes),
    "benchmark": benchmark_rows,
    "check": lambda name, folder: check_model(open_run("smoke", folder, {"model.name": name}).config),
    "open": lambda folder, settings: open_run("smoke", folder, settings).label,
    "token": lambda token: os.environ.update(HF_TOKEN=token) or "",
}
for call, *words in json.loads(sys.argv[1]):
    started = time.monotonic()
    try:
        found = CALLS[call](*words)
    except InputError as error:
        found = str(error)
    print("FOUND", json.dumps([found, time.monotonic() - started]))
"""


def made(count, prefix, columns=COLUMNS):
    rows = [dict(zip(columns, (f"{prefix} {i}", "thought", "answer"), strict=True)) for i in range(count)]
    return json.dumps(rows, ensure_ascii=False).encode()


def card(**configs):
    listed = [f"- config_name: {name}\n  data_files: {file}" for name, file in configs.items()]
    return "\n".join(["---", "configs:", *listed, "---", ""]).encode()


MEDQA_ROW = {"question": "Next?", "options": {"A": "x", "B": "y"}, "answer_idx": "B"}
REPOSITORIES = {
    f"datasets/{HUB_DATASET}": {
        "README.md": card(en="en.json", zh="zh.json", en_mix="mix.json", zh_mix="zh_mix.json"),
        "en.json": made(3, "English"),
        "zh.json": made(3, "中文"),
        "mix.json": made(4, "mixed"),
        "zh_mix.json": made(4, "混合"),
    },
    f"datasets/{DISTILLED}": {
        "README.md": card(en="r1.json"),
        "r1.json": made(2, "distilled", ("question", "reasoning (reasoning_content)", "response (content)")),
    },
    f"datasets/{MEDQA}": {"test.jsonl": json.dumps(MEDQA_ROW).encode()},
    "models/me/model": {"config.json": b'{"model_type": "llama"}'},
    "models/me/pickled": {"config.json": b'{"model_type": "llama"}', "pytorch_model.bin": b""},
    "models/me/sound": {"config.json": b'{"model_type": "llama"}', "model.safetensors": b""},
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    hub = FakeHub(REPOSITORIES)
    hub.home = tmp_path_factory.mktemp("hub") / "home"
    yield hub
    hub.close()


def ask(hub, calls, **environment):
    """The calls' answers and seconds, in a process that has the stand-in for its hub, and no login of the caller's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    told = {"HF_ENDPOINT": hub.address, "HF_HOME": str(hub.home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(calls)],
        env={**kept, **told, **environment},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    found = [json.loads(line.removeprefix("FOUND")) for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert len(found) == len(calls), done.stderr
    return [SimpleNamespace(said=said, seconds=seconds) for said, seconds in found]


GATED = "and set HF_TOKEN to a token of that account that may read gated repositories (https://huggingface.co/settings"
GONE = "it is not on the hub (https://huggingface.co/gone/x), or private: then set HF_TOKEN to a token that may read it"
NEW = f"set HF_TOKEN to a new token {TOKENS}, or remove it"
REFUSED = {
    ("gated/x", None): f"it is gated: {TERMS}gated/x, {GATED}",
    ("gone/x", None): GONE,
    ("me/model", "v9"): "it has no revision 'v9': take a branch, tag or commit of https://huggingface.co/me/model/comm",
    ("disabled/x", None): "the hub refused it (403: Access to this resource is disabled.)",
    ("forbidden/x", None): "the hub refused it (403: not today)",
    ("broken/x", None): "the hub cannot answer (500: it is out of order): try again in a few minutes",
    ("busy/x", None): "the hub cannot answer (429: it had too many requests): try again in a few minutes",
}
REFUSED_WITH_A_TOKEN = {
    ("denied/x", None): f"it is gated: {TERMS}denied/x, {GATED}",
    ("gone/x", None): GONE,
    ("unauthorized/x", None): f"the hub refused it (401: Invalid credentials in Authorization header): {NEW}",
    ("expired/x", None): f'the hub refused it (401: User Access Token "old" is expired): {NEW}',
    ("busy/x", None): "the hub cannot answer (429: it had too many requests): try again in a few minutes",
}


OF_DATA_SETS = ("gated/x", "gone/x", "broken/x", "denied/x", "unauthorized/x")


def refusals(refused):
    """(call, beginning of what is said) of each loader."""
    for (name, revision), says in refused.items():
        yield ["model", name, revision], says
        if name in OF_DATA_SETS:
            says = says.replace(f"huggingface.co/{name}", f"huggingface.co/datasets/{name}")
            yield ["rows", {"source": name, "revision": revision}], f"cannot get {name}: {says}"


READ = [
    ["rows", {"source": "hub"}],
    ["rows", {"source": "hub", "config": "en_mix", "revision": COMMIT}],
    ["rows", {"source": DISTILLED}],
    ["benchmark", "medqa"],
    ["model", "me/model"],
]


UNKNOWN = f"cannot get {HUB_DATASET}: BuilderConfig 'de' not found. Available: ['en', 'zh', 'en_mix', 'zh_mix']"
EXPECTED = [(["rows", {"source": "hub", "config": "de"}], UNKNOWN), *refusals(REFUSED)]
EXPECTED += [(["token", "hf_x"], ""), *refusals(REFUSED_WITH_A_TOKEN)]


OPENED = [
    {"data.source": "hub"},
    {"evaluation.questions": "medqa"},
    {"model.name": "me/model"},
    {"retrieval.embedder": "me/model"},
]
NEXT = "next/x"  # asked for after the openings, so that the hub's list shows where theirs end


def openings(folder, settings):
    """Calls that open a new run folder with each of the settings; they say its name, or why not."""
    return [["open", f"{folder}/{i}", each] for i, each in enumerate(settings)]


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory):
    """The hub's answers to two openings, to READ, to checks of two models, and to EXPECTED, all in one process."""
    folder = tmp_path_factory.mktemp("checked")
    opened = [*openings(folder, [{"data.source": "hub"}, {"retrieval.embedder": "gone/x"}]), ["model", NEXT]]
    checks = [["check", f"me/{name}", str(folder / name)] for name in ("pickled", "sound")]
    found = iter(ask(hub, [*opened, *READ, *checks, *(call for call, _ in EXPECTED)]))
    names, lists = ("opened", "read", "checked", "refused"), (opened, READ, checks, EXPECTED)
    return SimpleNamespace(
        folder=folder, **{n: [*islice(found, len(calls))] for n, calls in zip(names, lists, strict=True)}
    )


def test_each_refusal_is_told_apart_and_at_once_for_models_and_data_sets(answers):
    for (call, says), answer in zip(EXPECTED, answers.refused, strict=True):
        assert answer.said.startswith(says), call
        assert answer.said.endswith("; data.source may also be sample or a file") == (call[0] == "rows")
        assert "\n" not in answer.said
        assert answer.seconds < 15


def assert_read(answers):
    english, mixed, distilled, medqa, model = (answer.said for answer in answers)
    for (questions, provenance), first, count, name, config in (
        (english, "English 0", 3, HUB_DATASET, "en"),
        (mixed, "mixed 0", 4, HUB_DATASET, "en_mix"),
        (distilled, "distilled 0", 2, DISTILLED, "en"),
    ):
        assert (questions[0], len(questions)) == (first, count)
        assert (provenance["source"], provenance["config"], provenance["revision"]) == (name, config, COMMIT)
    assert distilled[1]["columns"]["Complex_CoT"] == "reasoning (reasoning_content)"
    assert medqa == [[[1, {"id": "medqa-1", **MEDQA_ROW}]], COMMIT]
    assert model == "LlamaConfig"


def test_what_was_read_once_is_opened_and_read_from_the_cache_without_a_network(hub, answers, tmp_path):
    assert_read(answers.read)
    asked = len(hub.asked)
    again = [
        ["rows", {"source": "hub", "config": "en", "revision": "d" * 40}],
        ["rows", {"source": "a/new"}],
        ["model", "a/new", "v1"],
    ]
    for environment, why in (
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached ([Errno 111] Connection refused)"),
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is on"),
    ):
        runs = openings(tmp_path / why[:7], OPENED)
        *cached, other_commit, other_set, other_model = ask(hub, runs + READ + again, **environment)
        opened, offline = cached[: len(runs)], cached[len(runs) :]
        assert [each.said for each in opened] == [folder for _, folder, _ in runs]
        assert_read(offline)
        assert other_commit.said.startswith(f"cannot get {HUB_DATASET}: {why}")
        assert f"it is not in the cache at revision '{'d' * 40}'" in other_commit.said
        assert other_set.said.startswith(f"cannot get a/new: {why}")
        assert other_model.said.startswith(why)
        assert max(each.seconds for each in (other_commit, other_set, other_model)) < 15
    assert len(hub.asked) == asked


def test_what_is_neither_on_the_hub_nor_in_the_cache_makes_no_run_folder(hub, tmp_path):
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    for each in ask(hub, openings(tmp_path / "run", OPENED), **home):
        assert "offline mode is on (HF_HUB_OFFLINE), and it is not in the cache" in each.said
        assert each.seconds < 15
    assert not (tmp_path / "run").exists()


def test_opening_a_run_folder_asks_the_hub_and_downloads_no_rows(hub, answers):
    there, gone, _ = answers.opened
    assert there.said == f"{answers.folder}/0"
    assert gone.said.startswith(f"retrieval.embedder: cannot get gone/x: {GONE}")
    asked = [path for path in hub.asked if "agent-harnesses" not in path]
    assert asked[:3] == [f"GET /api/datasets/{HUB_DATASET}", "GET /api/models/gone/x", f"GET /api/models/{NEXT}"]


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_waited_for_ten_seconds(hub, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for each in ask(hub, openings(tmp_path, OPENED), HF_HOME=str(tmp_path / "home"), HF_ENDPOINT=address):
            assert "the hub cannot be reached (timed out), and it is not in the cache" in each.said
            assert each.seconds < 15


def test_01_refuses_pickles_though_opening_the_run_folder_has_cached_the_configuration(answers):
    pickled, sound = answers.checked
    assert pickled.said == "me/pickled has no weights in safetensors, and others (.bin, .pt) are not opened"
    assert sound.said == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("more", "token", "said"),
    [
        (
            {"X-Error-Message": "Invalid username or password."},
            False,
            "it is not on the hub (https://huggingface.co/a/b)",
        ),
        ({"X-Error-Code": "RepoNotFound"}, True, "it is not on the hub (https://huggingface.co/a/b)"),
        (
            {"X-Error-Message": 'User Access Token "old" is expired'},
            True,
            'the hub refused it (401: User Access Token "o',
        ),
        (
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            True,
            "the hub refused it (401: Invalid cre",
        ),
    ],
)
def test_a_401_is_a_refused_token_or_a_missing_repository(more, token, said):
    """By the hub's own address: the client takes another error for a 401 of the stand-in's."""
    sent = {"Authorization": "Bearer hf_x"} if token else {}
    request = httpx.Request("GET", "https://huggingface.co/api/models/a/b", headers=sent)
    with pytest.raises(HfHubHTTPError) as caught:
        hf_raise_for_status(httpx.Response(401, headers=more, request=request))
    assert explain(caught.value, "a/b").startswith(said)


# The disk ----------------------------------------------------------------------------------------------------------


def wrapped(error, cause):
    """`error`, as a library raises it from `cause`."""
    try:
        raise error from cause
    except type(error) as caught:
        return caught


FULL = OSError(errno.ENOSPC, "No space left on device")
DENIED = OSError(errno.EACCES, "Permission denied", "/root/.cache/x")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "the disk is full: free some space"),
        (wrapped(ValueError("generating"), wrapped(OSError("Can't load the model"), FULL)), "the disk is full"),
        # In the words of safetensors and datasets, on a disk that was full: their errors have no number.
        (SafetensorError("Error while serializing: No space left on device (os error 28)"), "the disk is full"),
        (OSError("Not enough disk space. Needed: 2 GiB"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/home/me/x"), "the disk is full (/home/me/x)"),
        (wrapped(OSError("when downloading me/model"), DENIED), "no permission for /root/.cache/x: make it"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "no permission for /x: make it"),
        (ValueError("Unrecognized model in a/b.\nShould have"), "Unrecognized model in a/b."),
    ],
)
def test_an_error_of_the_disk_is_told_wherever_in_the_chain_it_stands(error, said):
    assert explain(error, "me/model").startswith(said)
    assert "\n" not in explain(error, "me/model")


# Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "dataset"),
    [
        ("hub", HUB_DATASET),
        (DISTILLED, DISTILLED),
        ("teknium/OpenHermes-2.5", "teknium/OpenHermes-2.5"),
        *(
            (file, None)
            for file in ("sample", "rows.jsonl", "data/rows.jsonl", "mine/rows.xlsx", "a/b/c", "/a/b", "./a")
        ),
        ("tests/no_rows", None),  # a folder of this project
    ],
)
def test_a_data_set_is_told_from_a_file(source, dataset):
    assert hub_dataset(source) == dataset


def named(name, **more):
    return Config.resolve("smoke", {"model.name": str(name), **more})


SNAPSHOT = f"hub/models--deepseek-ai--DeepSeek-R1-Distill-Llama-8B/snapshots/{COMMIT}"


@pytest.mark.parametrize(
    ("folder", "public"),
    [
        (SNAPSHOT, "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        ("deepseek-r1/transformers/deepseek-r1-distill-llama-8b/2", "deepseek-r1-distill-llama-8b"),
        ("mine", "mine"),
    ],
)
def test_the_public_name_of_a_base_in_a_folder(tmp_path, folder, public):
    (tmp_path / folder).mkdir(parents=True)
    config = named(tmp_path / folder)
    assert public_name(config) == public
    warning = nameless_base(config)
    assert (warning is None) if "/" in public else ("set export.base_model to its hub id" in warning)
    config = named(tmp_path / folder, **{"export.base_model": "me/base"})
    assert (public_name(config), nameless_base(config)) == ("me/base", None)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("tiny", "tiny"),
        ("embedded", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("unsloth/DeepSeek-R1-Distill-Llama-8B", "unsloth/DeepSeek-R1-Distill-Llama-8B"),
        *((folder, "llama") for folder in ("/home/me/llama", "~/x/llama", "models/x/llama")),
    ],
)
def test_a_public_name_holds_no_folders(name, public):
    assert public_name(named(name)) == public
    assert (nameless_base(named(name)) is None) == (public != "llama")


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path, monkeypatch):
    write_json(tmp_path / "models/llama/config.json", {})
    monkeypatch.setattr("helpers.files.PROJECT_ROOT", tmp_path)
    assert public_name(named("models/llama")) == "llama"
    assert public_name(named("others/llama")) == "others/llama"


def test_a_token_that_cannot_be_sent_is_named():
    error = UnicodeEncodeError("ascii", "Bearer hf_é", 10, 11, "ordinal not in range(128)")
    assert explain(error, "a/b") == f"HF_TOKEN has a letter that is not ASCII: set it to a token {TOKENS}, or remove it"
