import gzip
from pathlib import Path

import pytest

from helpers import PROJECT_ROOT

CORPORA = PROJECT_ROOT.parent / "shared" / "knowledge"


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
