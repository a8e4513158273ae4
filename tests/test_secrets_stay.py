"""A whole series with secrets in every place that libraries look in: no artefact, log or output holds one."""

import base64
import gzip
import os
import subprocess
import sys
import zipfile
import zlib

import pytest

from helpers import PROJECT_ROOT
from helpers.tracking.secrets import SECRETS

# Each with a beginning of its own: ten characters of one are looked for too.
PLANTED = {name: f"{name[::-1].lower()[:6]}4Zq9{i}7xVb2mT5wKj8sD3fGh6nLp1cRy0eUa" for i, name in enumerate(SECRETS)}
VARIABLES = {variable: name for name, variables in SECRETS.items() for variable in variables}
KEY = "d15ea5e" + "0123456789abcdef" * 2 + "f"  # what W&B takes for one: 40 hex digits


def planted(home):
    """The environment of a user who has every secret set, stored and noted; and their values."""
    values = {variable: PLANTED[name] + variable[:4] for variable, name in VARIABLES.items()}
    values["WANDB_API_KEY"] = KEY
    values["AI_DOCTOR_API_KEY"], values["AI_DOCTOR_ENDPOINT_KEY"] = "srv-8e1f77a2b4c6", "end-5d2c91b0a7f3"
    files = {"token": "hf_storedQ7w2E9r4T6y1U3", "stored_tokens": "hf_secondM5n8B2v7C4x1Z9", "netrc": "ab54a98ceb" * 4}
    hub = home / "hf"
    hub.mkdir(parents=True)
    (hub / "token").write_text(files["token"])
    (hub / "stored_tokens").write_text(f"[mine]\nhf_token = {files['stored_tokens']}\n")
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {files['netrc']}\n")
    token_file = home / "identity"
    token_file.write_text(values["WANDB_IDENTITY_TOKEN_FILE"])
    environment = values | {"WANDB_IDENTITY_TOKEN_FILE": str(token_file), "HOME": str(home), "HF_HOME": str(hub)}
    return environment, [*values.values(), *files.values()]


def forms(value):
    """What a secret looks like in a file: plain, its beginning, in base64 at each of three offsets."""
    yield value.encode()
    yield value[:10].encode()
    for offset in range(3):
        coded = base64.b64encode(b"\0" * offset + value.encode())
        yield coded[4 if offset else 0 : -4]


def contents(path, data):
    """(name, bytes) of a file and of what is packed in it."""
    yield path, data
    if data[:2] == b"\x1f\x8b":
        yield from contents(f"{path} unpacked", gzip.decompress(data))
    if data[:2] == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield from contents(f"{path}: {name}", archive.read(name))


def found_in(texts, values):
    patterns = [(value, form) for value in values for form in forms(value)]
    return [(str(name), value[:10]) for name, data in texts for value, form in patterns if form in data]


def test_the_search_finds_what_it_must(tmp_path):
    secret = "hf_storedQ7w2E9r4T6y1U3"
    for name, data in {
        "plain": secret.encode(),
        "short": secret[:10].encode(),
        "coded": base64.b64encode(b"Basic " + secret.encode()),
        "packed.gz": gzip.compress(secret.encode()),
        "none": zlib.compress(b"nothing"),
    }.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.gz", gzip.compress(secret.encode()))
    texts = [each for path in sorted(tmp_path.iterdir()) for each in contents(path, path.read_bytes())]
    names = {name.removeprefix(f"{tmp_path}/").split()[0].rstrip(":") for name, _ in found_in(texts, [secret])}
    assert names == {"plain", "short", "coded", "packed.gz", "archive.zip"}


@pytest.mark.slow
def test_no_secret_is_in_an_artefact_a_log_or_the_output(tmp_path):
    environment, values = planted(tmp_path / "home")
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | environment | {"TMPDIR": str(scratch), "WANDB_DIR": str(scratch)}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "AI_DOCTOR_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "helpers", "run", "--profile", "smoke", "--run-dir", str(run)]
    done = subprocess.run(
        [*command, "--set", "tracking.wandb=offline"],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        check=False,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-2000:].decode()
    packed = {"stdout": done.stdout, "stderr": done.stderr}
    files = [path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "home" not in path.parents]
    assert [path for path in files if path.suffix == ".wandb"], "W&B wrote no offline run: this test looks at nothing"
    assert (run / "index.html").is_file()
    texts = [each for path in files for each in contents(path, path.read_bytes())]
    assert found_in([*texts, *packed.items()], values) == []
