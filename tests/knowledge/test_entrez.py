"""The fetch against a stand-in of E-utilities; bodies and headers as the real ones send them."""

import json
import time
from functools import partial
from urllib.parse import parse_qs

import pytest
import stand_in
from libraries import read_documents

from helpers import InputError
from helpers.knowledge import entrez

PMIDS = [str(40_000_000 + n) for n in range(450)]
CITATION = """<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="1">{0}</PMID><Article>
<ArticleTitle>Title {0}.</ArticleTitle></Article></MedlineCitation></PubmedArticle>"""
HEAD = (
    '<?xml version="1.0" ?>\n<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN" "x">\n'
)
# What NCBI answers to more than its rate, a wrong key and a broken back end: status, headers, body.
LIMITED = 429, {"Retry-After": "2"}, '{"error":"API rate limit exceeded","api-key":"1.2.3.4","count":"4","limit":"3"}'
BAD_KEY = 400, {}, '{"error":"API key invalid","api-key":"sesame","type":"ip","status":"unknown"}'
BROKEN = 502, {}, "<html><body><h1>502 Bad Gateway</h1></body></html>"
LATE = 200, {}, '<?xml version="1.0" ?>\n<eFetchResult>\n<ERROR>Unable to obtain query #1</ERROR>\n</eFetchResult>'
CUT = 200, {}, HEAD + "<PubmedArticleSet>" + CITATION.format(1)
NO_SEARCH = 200, {}, '{"header":{"type":"esearch"},"esearchresult":{"ERROR":"Search Backend failed: x"}}'


class Handler(stand_in.Handler):
    def answer(self):
        asked = parse_qs(self.body().decode())
        asked = {key: values[0] for key, values in asked.items()} | {"path": self.path.rpartition("/")[2]}
        self.server.asked.append(asked)
        answer = self.server.troubles.pop(0) if self.server.troubles else None
        status, headers, body = answer or (200, {}, self.search(asked) if "term" in asked else self.fetch(asked))
        self.send(status, body.encode(), headers)

    def search(self, asked):
        found = {"count": "450", "retmax": asked["retmax"], "retstart": "0", "querykey": "1", "webenv": "MCID_67"}
        found["idlist"] = PMIDS[: int(asked["retmax"])]
        if asked["term"] == "zzzz":
            found = {"count": "0", "idlist": []}
        return json.dumps({"header": {"type": "esearch", "version": "0.3"}, "esearchresult": found})

    def fetch(self, asked):
        ids = asked["id"].split(",")
        return f"{HEAD}<PubmedArticleSet>{''.join(map(CITATION.format, ids))}</PubmedArticleSet>"


@pytest.fixture
def ncbi(monkeypatch):
    """The server; `waited` are the seconds that the client would have slept."""
    server = stand_in.StandIn(Handler)
    server.asked, server.troubles, server.waited = [], [], []
    server.address += "/entrez/eutils/"
    monkeypatch.delenv(entrez.KEY, raising=False)
    monkeypatch.setattr(time, "sleep", server.waited.append)
    yield server
    server.close()


def fetch(ncbi, folder, query="gout", limit=450, **more):
    return entrez.fetch_topic(query, folder, limit, address=ncbi.address, **more)


def test_a_topic_is_fetched_in_batches_and_read(ncbi, tmp_path):
    files = fetch(ncbi, tmp_path / "t")
    assert [path.name for path in files] == ["batch-0000.xml", "batch-0001.xml", "batch-0002.xml"]
    assert [document.source for document in read_documents(tmp_path / "t")] == PMIDS
    search, *fetches = ncbi.asked
    assert (search["db"], search["term"]) == ("pubmed", "gout")
    assert [len(each["id"].split(",")) for each in fetches] == [200, 200, 50]
    assert {(a["tool"], a.get("api_key")) for a in ncbi.asked} == {("ai-doctor", None)}


def test_a_stopped_fetch_goes_on_with_the_same_citations(ncbi, tmp_path):
    ncbi.troubles = [None, None, *[BROKEN] * 9]
    with pytest.raises(InputError, match="502 Bad Gateway; try again later"):
        fetch(ncbi, tmp_path)
    before = (tmp_path / "batch-0000.xml").stat().st_mtime_ns
    ncbi.troubles, ncbi.asked = [], []
    fetch(ncbi, tmp_path)
    assert [asked["id"].split(",") for asked in ncbi.asked] == [PMIDS[200:400], PMIDS[400:]]
    assert (tmp_path / "batch-0000.xml").stat().st_mtime_ns == before
    assert not fetch(ncbi, tmp_path)[3:]
    assert len(ncbi.asked) == 2


@pytest.mark.parametrize(("search", "first", "second"), [[LIMITED] * 3, [BROKEN] * 3, (NO_SEARCH, LATE, CUT)])
def test_a_passing_trouble_is_tried_again(ncbi, tmp_path, search, first, second):
    ncbi.troubles = [search, None, first, second]
    assert len(fetch(ncbi, tmp_path, limit=3)) == 1
    assert len(ncbi.asked) == 5
    pauses = [round(seconds) for seconds in ncbi.waited if seconds > 0.5]
    assert pauses == ([2, 2, 2] if search is LIMITED else [1, 1, 2])


def test_requests_keep_to_the_rate_that_ncbi_allows(ncbi, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)  # no time passes but by waiting
    fetch(ncbi, tmp_path / "a")
    monkeypatch.setenv(entrez.KEY, "sesame")
    fetch(ncbi, tmp_path / "b")
    assert ncbi.waited[1:4] == pytest.approx([1 / 3] * 3)
    assert ncbi.waited[5:] == pytest.approx([1 / 10] * 3)
    assert ncbi.asked[-1]["api_key"] == "sesame"
    assert not any("sesame" in path.read_text() for path in (tmp_path / "b").iterdir())


def test_a_refused_key_is_said_without_the_key(ncbi, tmp_path, monkeypatch):
    monkeypatch.setenv(entrez.KEY, "sesame")
    ncbi.troubles = [BAD_KEY]
    with pytest.raises(InputError, match=r"refused esearch\.fcgi \(400: API key invalid\)"):
        fetch(ncbi, tmp_path)


def test_a_query_without_a_match(ncbi, tmp_path):
    with pytest.raises(InputError, match="PubMed has nothing for this query"):
        fetch(ncbi, tmp_path, "zzzz")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_search_is_left_alone(ncbi, tmp_path):
    fetch(ncbi, tmp_path, limit=2)
    with pytest.raises(InputError, match="holds another search"):
        fetch(ncbi, tmp_path, "flu", limit=2)


def test_without_a_network_there_is_one_line(tmp_path, ncbi):
    ncbi.address = "http://127.0.0.1:9/"
    with pytest.raises(InputError, match=r"no connection to 127\.0\.0\.1: is there a network\?"):
        fetch(ncbi, tmp_path)


def test_the_index_command_fetches_a_topic_and_adds_it(ncbi, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entrez, "fetch_topic", partial(entrez.fetch_topic, address=ncbi.address))
    (tmp_path / "gout.md").write_text("# Gout\n\nUric acid.\n")
    words = ("index", "--out", "library/i.sqlite", "--pubmed", "Gout AND therapy[MeSH]", "--limit", 3)
    first = cli(*words, "gout.md")
    assert (first.status, first.err) == (0, "")
    assert "4 documents added" in first.out
    assert [ncbi.asked[0][key] for key in ("term", "retmax")] == ["Gout AND therapy[MeSH]", "3"]
    assert (tmp_path / "library/pubmed-gout-and-therapy-mesh/batch-0000.xml").is_file()
    assert "0 documents added, 3 unchanged" in cli(*words).out
    assert len(ncbi.asked) == 2
    assert cli("index", "--out", "i.sqlite").err.startswith("error: nothing to index: name files or folders, or")
