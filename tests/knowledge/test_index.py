"""The index's contract: what comes in is found, the newest version stays, and nothing that goes wrong loses it."""

import os
import random
import signal
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import PROJECT_ROOT, InputError
from helpers.files import read_jsonl
from helpers.knowledge import engines, importing
from helpers.knowledge import index as index_module
from helpers.knowledge.documents import Deletion, Document, Rejection, Section
from helpers.knowledge.index import Index
from helpers.knowledge.markup import sections

SHARED = PROJECT_ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the project")


def doc(source, *texts, version="", title="Title"):
    return Document(source, [Section((title,), [text]) for text in texts], "CC0", version=version)


def everything(index, query="heart liver kidney"):
    return [(p.source, p.text, p.score) for p in index.search(query, 1000)]


@pytest.fixture
def index(tmp_path):
    return Index(tmp_path / "i")


@pytest.fixture(params=[10**9, 1], ids=["fts5", "tantivy"])
def either(request, tmp_path, monkeypatch):
    """An index that SQLite searches, and one that tantivy does."""
    monkeypatch.setattr(index_module, "LARGE", request.param)
    return Index(tmp_path / "i")


def test_the_best_passages_come_first_with_where_they_are_from(either):
    filler = [doc(f"f{n}", f"bones and joints number {n}") for n in range(20)]
    added = either.add([*filler, doc("a", "The hearts beat."), doc("b", "A heart has valves.", title="Valves")])
    assert (added.documents, added.passages, len(either), either.documents) == (22, 22, 22, 22)
    assert [p.source for p in either.search("valve of the HEART", 5)] == ["b", "a"]
    best = either.search("Heart valve?", 1)[0]
    assert (best.text, best.title, best.licence) == ("A heart has valves.", "Valves", "CC0")
    assert best.score > 0
    assert len(either.search("bones", 1000)) == 20
    assert either.folder.exists() == (index_module.LARGE == 1)


def test_equal_scores_come_in_the_order_of_reading_wherever_the_list_ends(either):
    either.add([doc(str(n), "heart") for n in range(90)] + [doc(f"x{n}", "liver") for n in range(300)])
    for k in (1, 7, 40, 90):
        assert [p.source for p in either.search("heart", k)] == [str(n) for n in range(k)]


@pytest.fixture(scope="module")
def both_engines(tmp_path_factory):
    """Two indexes of the same documents, the second with tantivy."""
    made, large = [], index_module.LARGE
    for index_module.LARGE in (10**9, 1):
        index = Index(tmp_path_factory.mktemp("i") / "i")
        index.add([doc("a", "heart title"), *(doc(str(n), f"liver {n}") for n in range(9))])
        made.append(index)
    index_module.LARGE = large
    return made


@pytest.mark.parametrize("query", ["", " \n", "?!-*:^()\"'", "\x00", "\ud800", "zebra", "_", "NEAR", "%", "AND OR NOT"])
def test_a_query_without_known_words_finds_nothing(both_engines, query):
    assert [index.search(query, 5) for index in both_engines] == [[], []]


@given(
    st.text(alphabet=st.sampled_from("\"'*:^()-+{}[]\\;,.\x00\ud800\u200f\u0301é %_~"), max_size=12),
    st.text(max_size=9),
)
@settings(max_examples=20, deadline=None)
def test_signs_around_a_word_mean_nothing(both_engines, signs, text):
    for index in both_engines:
        assert [p.source for p in index.search(f"{signs} heart {signs[::-1]}", 3)] == ["a"]
        assert len(index.search(signs + text, 3)) <= 3


def test_hostile_text_is_stored_and_found_as_text(either):
    texts = {
        "fts": 'alpha" OR NEAR(x y) col: -minus *', "nul": "before \x00beta after", "surrogate": "gamma\ud800 half",
        "long": "delta " + "w" * 1_000_000, "mark": "\u200fepsilon\u200e \u202e", "script": "<script>zeta()</script>",
        "accent": "e\u0301ta étoile",
    }  # fmt: skip
    either.add([Document(name, sections([(("Title",), [text])])) for name, text in texts.items()])  # as readers do
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "etoile"]
    found = {word: either.search(word, 3) for word in words}
    assert [[p.source for p in found[word]] for word in words] == [[name] for name in texts]
    assert found["zeta"][0].text == "<script>zeta()</script>"
    assert found["delta"][0].text == "delta"  # and the long word in passages of its own
    assert "\x00" not in found["beta"][0].text
    either.search("w" * 1_000_000 + " " + "many words " * 50_000, 3)


def test_k_is_the_number_of_passages(index):
    index.add([doc("many", *(f"heart {n}" for n in range(60))), doc("one", "heart and other words"), doc("no", "x")])
    assert [p.source for p in index.search("heart", 10)] == ["many"] * 10
    assert [p.source for p in index.search("heart", 99)] == ["many"] * 60 + ["one"]
    for k in (0, 1.5):
        with pytest.raises(InputError):
            index.search("heart", k)


def test_an_index_that_is_still_to_be_made_is_empty(index):
    assert (len(index), index.documents, index.search("heart", 3), index.rows()) == (0, 0, [], ("", []))
    assert not index.path.exists()
    index.path.touch()
    assert index.search("heart", 3) == []
    assert index.add([]).documents == 0
    assert index.search("heart", 3) == []


EVENTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.booleans()), max_size=7, unique_by=lambda e: (e[0], e[1])
)


@given(EVENTS, st.randoms(use_true_random=False))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_greatest_version_stays_in_whichever_order_they_come(tmp_path_factory, events, rng):
    events = [*events]
    rng.shuffle(events)
    index = Index(tmp_path_factory.mktemp("v") / "i")
    items = [Deletion(s, str(v)) if gone else doc(s, f"heart {v}", version=str(v)) for s, v, gone in events]
    half = len(items) // 2
    index.add(items[:half])
    index.add(items[half:])
    newest = {source: max(e for e in events if e[0] == source) for source, *_ in events}
    kept = {source: f"heart {version}" for source, version, gone in newest.values() if not gone}
    assert {p.source: p.text for p in index.search("heart", 99)} == kept
    assert (len(index), index.documents) == (len(kept), len(kept))


def test_a_deletion_outweighs_its_own_version_and_a_newer_one_brings_the_document_back(index):
    assert (
        index.add([Deletion("1", "5"), doc("1", "heart", version="5"), doc("1", "heart", version="4")]).unchanged == 2
    )
    assert index.search("heart") == []
    index.add(doc("1", "heart again", version="6"))
    assert index.add([Deletion("1", "5")]).deleted == 0
    assert index.search("heart")[0].text == "heart again"
    assert index.add([Deletion("1", "6")]).deleted == 1
    assert (len(index), index.search("heart")) == (0, [])


def test_a_deletion_without_a_version_withdraws_what_is_there_whoever_named_it(index, folder):
    index.add([folder, folder / "one", doc("1", "heart", version="5")])
    assert index.add([Deletion("one/notes.md"), Deletion("1"), Deletion("unknown")]).deleted == 2
    assert [p.source for p in index.search("heart")] == ["two/notes.md"]
    assert index.add([folder, doc("1", "heart", version="5")]).documents == 0
    assert index.add([doc("1", "heart", version="6")]).documents == 1


def test_of_equal_versions_the_last_one_stays_and_the_same_text_changes_nothing(index):
    index.add([doc("1", "heart"), doc("1", "liver")])
    again = index.add([doc("1", "liver")])
    assert (again.documents, again.unchanged, len(index)) == (0, 1, 1)
    assert [p.text for p in index.search("heart liver")] == ["liver"]


@pytest.fixture
def folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "src" / name).mkdir(parents=True)
        (tmp_path / "src" / name / "notes.md").write_text(f"The heart of {name}.")
    return tmp_path / "src"


def test_two_folders_may_hold_a_file_of_one_name(index, folder):
    assert index.add([folder / "one", str(folder / "two")]).documents == 2
    before = everything(index)
    again = index.add([folder / "two", folder / "one", folder])
    assert (again.documents, again.unchanged) == (0, 4)
    assert everything(index) == before


def test_a_link_beside_what_it_leads_to_is_read_once(index, folder):
    (folder / "one" / "link.md").symlink_to("notes.md")
    index.add(folder)
    before = index.state
    again = index.add(folder)
    assert (again.documents, again.deleted, len(index), index.state) == (0, 0, 2, before)


def test_a_changed_file_replaces_what_it_held_and_a_moved_one_is_not_read_again(index, tmp_path, folder):
    index.add(folder)
    note = folder / "one" / "notes.md"
    stamp = note.stat()
    note.write_text("The liver of one.")
    os.utime(note, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert index.add(folder).documents == 1
    assert sorted(p.text for p in index.search("heart liver")) == ["The heart of two.", "The liver of one."]
    folder.rename(tmp_path / "moved")
    assert index.add(tmp_path / "moved").documents == 0
    (tmp_path / "moved" / "one" / "notes.md").write_text("The kidney of one.")
    index.add(tmp_path / "moved")
    assert sorted(p.text for p in index.search("heart liver kidney")) == ["The heart of two.", "The kidney of one."]


def test_rows_that_left_a_file_leave_the_index_unless_it_could_be_read_in_part_only(index, tmp_path, monkeypatch):
    contents = {"a.txt": [doc("1", "heart"), doc("2", "liver")]}
    monkeypatch.setattr(importing, "read_file", lambda path, root: iter(contents[path.name]))
    path = tmp_path / "a.txt"
    for items, left in (
        (contents["a.txt"], {"1", "2"}),
        ([doc("1", "heart"), Rejection("a.txt", "broken")], {"1", "2"}),
        ([doc("1", "heart")], {"1"}),
    ):
        path.write_text(repr(items))
        contents["a.txt"] = items
        index.add(path)
        assert {p.source for p in index.search("heart liver")} == left


def test_all_rejections_are_counted_and_some_are_kept(tmp_path):
    added = Index(tmp_path / "i").add([*(Rejection(str(n), "why") for n in range(1000)), doc("a", "heart")])
    assert (added.rejections, len(added.rejected), added.documents) == (1000, importing.KEPT_REJECTIONS, 1)


def test_what_a_file_could_not_give_is_counted_by_each_import(index, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "heart"}\n{\n[]\n')
    for documents in (1, 0):
        added = index.add(tmp_path / "a.jsonl")
        assert (added.documents, added.rejections) == (documents, 2)


@pytest.mark.parametrize("content", [b"some text, no index" * 99, sqlite3.sqlite_version.encode(), None])
def test_a_file_that_is_not_an_index_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "i"
    if content is None:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE mine (a)")
        db.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"not an index|not a database"):
        Index(path)
    assert path.read_bytes() == before


def test_another_layout_says_to_build_it_again(tmp_path):
    Index(tmp_path / "i").add(doc("a", "heart"))
    with sqlite3.connect(tmp_path / "i") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(InputError, match=r"layout 99.*build it again"):
        Index(tmp_path / "i")


def test_a_folder_and_a_missing_source_are_one_line(tmp_path):
    with pytest.raises(InputError, match="not a file"):
        Index(tmp_path)
    index = Index(tmp_path / "i")
    with pytest.raises(InputError, match="does not exist"):
        index.add(tmp_path / "missing")
    assert index.add(doc("a", "heart")).documents == 1


def test_a_full_disk_is_one_line_and_leaves_the_index_as_it_was(tmp_path, monkeypatch):
    index = Index(tmp_path / "i")
    index.add([doc("a", "heart")])
    before = everything(index)
    started = importing.Importer.__init__

    def on_a_small_disk(self, db):
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0] + 20}")
        started(self, db)

    monkeypatch.setattr(importing.Importer, "__init__", on_a_small_disk)
    with pytest.raises(InputError, match=r"^[^\n]*disk is full[^\n]*$"):
        index.add(doc(str(n), f"heart {random.Random(n).random()}" * 50) for n in range(2000))
    monkeypatch.undo()
    assert everything(index) == before
    assert index.add([doc("b", "heart")]).documents == 1


def test_a_second_writer_is_refused_and_readers_see_the_last_state_meanwhile(tmp_path):
    Index(tmp_path / "i").add(doc("a", "heart"))
    readers = [Index(tmp_path / "i") for _ in range(3)]

    def stream():
        yield doc("b", "heart")
        with pytest.raises(InputError, match=r"^[^\n]*another process is adding[^\n]*$"):
            Index(tmp_path / "i").add(doc("c", "heart"))
        assert [[p.source for p in reader.search("heart")] for reader in readers] == [["a"]] * 3
        yield doc("d", "heart")

    Index(tmp_path / "i").add(stream())
    assert [[p.source for p in reader.search("heart")] for reader in readers] == [["a", "b", "d"]] * 3
    assert not list(tmp_path.glob(".*lock"))
    log = tmp_path / "i-wal"
    assert not log.exists() or not log.stat().st_size  # so that a copy of the file alone is all of the index


def test_an_index_at_rest_is_one_file_that_cannot_be_written_to(tmp_path):
    place = tmp_path / "medium"
    with Index(place / "i") as index:
        index.add(doc("a", "heart"))
    assert [path.name for path in place.iterdir()] == ["i"]
    (place / "i").chmod(0o444)
    place.chmod(0o555)
    try:
        assert [p.source for p in Index(place / "i").search("heart")] == ["a"]
        assert [path.name for path in place.iterdir()] == ["i"]
    finally:
        place.chmod(0o755)


def test_sqlite_answers_where_tantivy_or_its_folder_is_missing_damaged_or_old(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "LARGE", 1)
    Index(tmp_path / "i").add(doc("a", "heart"))
    meta = tmp_path / "i.tantivy" / "meta.json"
    content = meta.read_text()
    meta.write_text("{")
    assert [p.source for p in Index(tmp_path / "i").search("hearts")] == ["a"]
    meta.write_text(content)
    monkeypatch.setitem(sys.modules, "tantivy", None)
    monkeypatch.setattr(index_module, "find_spec", lambda name: None)
    index = Index(tmp_path / "i")
    assert [p.source for p in index.search("hearts")] == ["a"]
    index.add(doc("b", "heart"))
    assert [p.source for p in index.search("hearts")] == ["a", "b"]


def test_a_long_query_keeps_its_rarest_words(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "MOST_WORDS", 2)
    index = Index(tmp_path / "i")
    common = [doc(f"c{n}", "fever pain") for n in range(8)]
    index.add([*common, *(doc(f"f{n}", "bones") for n in range(30)), doc("r", "porphyria urine")])
    assert {p.source for p in index.search("pain fever with porphyrias in urine", 50)} == {"r"}
    assert len(index.search("pain and fever", 50)) == 8


HALF_DONE = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("UPDATE documents SET source = 'lost'")
db.execute("DELETE FROM passages")
db.executemany("INSERT INTO files (path) VALUES (?)", ((str(n) * 50,) for n in range(5000)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reader_undoes_what_a_killed_process_left_half_done(tmp_path):
    Index(tmp_path / "i").add(doc("a", "heart"))
    subprocess.run([sys.executable, "-c", HALF_DONE, str(tmp_path / "i")])
    assert (tmp_path / "i-journal").stat().st_size
    assert [p.source for p in Index(tmp_path / "i").search("heart")] == ["a"]


IMPORT = """
import os, signal, sys
from pathlib import Path
from helpers.knowledge import importing
from helpers.knowledge.documents import Document, Section
from helpers.knowledge.index import Index
from helpers.knowledge.markup import sections
importing.TRANSACTION = 20
def read_file(path, root):
    for n in range(400):
        if n == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield Document(f"d{n % 300}", [Section(("T",), [f"heart {n} {'liver ' * (n % 7)}"])], version="1")
importing.read_file = read_file
Index(sys.argv[1]).add(Path(sys.argv[2]))
"""


def test_a_killed_import_leaves_an_index_and_a_second_one_makes_it_as_if_nothing_had_happened(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}

    def run(name, killed_at):
        command = [sys.executable, "-c", IMPORT, str(tmp_path / name), str(tmp_path / "a.txt"), str(killed_at)]
        return subprocess.run(command, env=environment).returncode

    for killed_at, there in ((15, 0), (399, 300)):
        assert run("killed", killed_at) == -signal.SIGKILL
        index = Index(tmp_path / "killed")
        assert index.documents == there
        assert len(index.search("heart", 5)) == min(5, there)
    assert run("killed", -1) == run("calm", -1) == 0
    assert everything(Index(tmp_path / "killed")) == everything(Index(tmp_path / "calm"))
    assert Index(tmp_path / "killed").documents == 300


def test_an_index_of_the_layout_before_is_read_and_added_to(index):
    """It had more columns, which nothing reads any more, and a table of frequencies."""
    index.add([doc("a", "heart"), doc("b", "heart", version="1")])
    index.close()
    with sqlite3.connect(index.path) as db:
        for table, column in (("state", "stale"), ("files", "edition"), ("files", "done"), ("documents", "file")):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER")
        db.execute("CREATE TABLE frequencies (term TEXT PRIMARY KEY, passages INTEGER) WITHOUT ROWID")
    db.close()
    assert [p.source for p in index.search("heart")] == ["a", "b"]
    index.add([doc("c", "heart"), Deletion("b", "1"), Deletion("d", "1")])
    assert [p.source for p in index.search("heart")] == ["a", "c"]


@needs_shared
def test_nlm_files_give_the_same_index_in_either_order(tmp_path):
    files = sorted((SHARED / "knowledge" / "pubmed").glob("*.xml.gz"))
    forward, backward = Index(tmp_path / "f"), Index(tmp_path / "b")
    added = forward.add(files)
    for file in reversed(files):
        backward.add(file)
    assert forward.documents == backward.documents > 50
    assert sorted(everything(forward, "patients study the of")) == sorted(everything(backward, "patients study the of"))
    again = forward.add(SHARED / "knowledge" / "pubmed")
    assert (again.documents, again.deleted, again.unchanged) == (0, 0, added.documents + added.unchanged)


@needs_shared
def test_textbook_questions_find_their_modules(tmp_path):
    modules = SHARED / "knowledge" / "openstax-anatomy-physiology" / "modules"
    rows = [r for r in read_jsonl(SHARED / "data" / "textbook_mcq_dev.jsonl") if r["book"] == "anatomy-physiology"][:60]
    index = Index(tmp_path / "i")
    index.add([modules / name for name in dict.fromkeys(row["module"] for row in rows)])
    found = [[p.source for p in index.search(row["question"], 5)] for row in rows]
    assert sum(row["module"] in sources for row, sources in zip(rows, found, strict=True)) / len(rows) > 0.8


@needs_shared
def test_pubmedqa_questions_find_their_abstracts(tmp_path):
    rows = read_jsonl(SHARED / "data" / "pubmedqa_pqal_train_500.jsonl")
    index = Index(tmp_path / "i")
    index.add(Document(str(row["id"]), [Section((), [str(row["context"])])]) for row in rows)
    ranks = [[p.source for p in index.search(row["question"], 5)] for row in rows]
    hits = [str(row["id"]) in found for row, found in zip(rows, ranks, strict=True)]
    first = [found[:1] == [str(row["id"])] for row, found in zip(rows, ranks, strict=True)]
    assert sum(first) / len(rows) > 0.93
    assert sum(hits) / len(rows) > 0.96
