"""What several test files share: the two tokenizers, the rows that are at hand, and the command line."""

import sys
from types import SimpleNamespace

import pytest

from helpers import PROJECT_ROOT
from helpers.__main__ import main
from helpers.config import Config
from helpers.dataset_prep import SAMPLE
from helpers.run_dir import read_jsonl

REAL_ROWS = PROJECT_ROOT.parent / "shared" / "data" / "medical_o1_en_187.jsonl"


@pytest.fixture(scope="session")
def r1_tokenizer():
    """R1's special tokens and template; the tokenizer of the `tiny` model."""
    from helpers.models import load_tokenizer

    return load_tokenizer(Config.resolve("smoke").model)


@pytest.fixture(scope="session")
def smollm_tokenizer():
    """SmolLM2's, of the `embedded` model: ChatML, no beginning-of-sequence token, no token for the tags."""
    from helpers.models import load_tokenizer

    return load_tokenizer(Config.resolve("laptop").model)


@pytest.fixture(scope="session")
def sample_rows():
    return read_jsonl(SAMPLE)


@pytest.fixture(scope="session")
def real_rows():
    if not REAL_ROWS.is_file():
        pytest.skip("the real rows in ../shared/data are not here")
    return read_jsonl(REAL_ROWS)


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
