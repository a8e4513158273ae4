import os

import pytest
from libraries import read_documents

from helpers import InputError
from helpers.knowledge.corpora import read_file, source_files
from helpers.knowledge.documents import Document, Rejection
from helpers.knowledge.index import Index

CNXML = '<document xmlns="http://cnx.rice.edu/cnxml"><title>T</title><content><para>Cells.</para></content></document>'
PUBMED = """<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID Version="1">8</PMID><Article><ArticleTitle>Title.
</ArticleTitle></Article></MedlineCitation></PubmedArticle></PubmedArticleSet>"""


def test_a_file_is_what_its_content_says(write):
    contents = {"a/index.cnxml": CNXML, "b.xml": CNXML, "c.xml": PUBMED, "e.xml.gz": PUBMED}
    contents |= {"f.xml": "<other/>", "g.xml": "", "h.gz": b"\x1f\x8bno", "i.gz": "<other/>", "j.xml": "no XML"}
    for name, content in contents.items():
        path = write(f"f/{name}", content)
    found = {os.path.basename(p): list(read_file(p, path.parent)) for p in source_files(path.parent)}
    sources = {name: [e.source if isinstance(e, Document) else "-" for e in entries] for name, entries in found.items()}
    assert sources == {
        "index.cnxml": ["a"], "b.xml": ["f"], "c.xml": ["8"], "e.xml.gz": ["8"],
        "f.xml": ["-"], "g.xml": ["-"], "h.gz": ["-"], "i.gz": ["-"], "j.xml": ["-"],
    }  # fmt: skip
    assert "<other>" in found["f.xml"][0].why


def test_a_whole_source_of_an_unknown_kind_is_an_input_error(write):
    for path in (write("a.xml", "<other/>"), write("a.docx", "x"), write("b", "x")):
        with pytest.raises(InputError, match="unknown kind"):
            list(read_documents(path))


def test_a_missing_path_is_one_line(write):
    with pytest.raises(InputError, match=r"zzz does not exist$"):
        source_files(write("a.txt", "x").parent / "zzz")


def test_hidden_files_checksums_and_licences_are_passed_over_and_the_rest_is_sorted(write):
    for name in (".hidden", ".git/a.txt", "b.xml.gz.md5", "LICENSE", "X-LICENSE.txt", "licence.md", "__MACOSX/a.txt"):
        write(f"f/{name}", "x")
    for name in ("b.txt", "a/z.txt", "a/b.md", "licensed.txt", "photo.jpg"):
        folder = write(f"f/{name}", "x")
    folder = folder.parent
    assert [p.relative_to(folder).as_posix() for p in source_files(folder)] == [
        "a/b.md", "a/z.txt", "b.txt", "licensed.txt", "photo.jpg"
    ]  # fmt: skip
    (rejection,) = [e for e in read_documents(folder) if isinstance(e, Rejection)]
    assert "'.jpg'" in rejection.why


def test_links_in_a_circle_end_and_broken_ones_are_rejections(write, tmp_path):
    folder = write("f/a.txt", "x").parent
    (folder / "again").symlink_to(folder)
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    (folder / "long.txt").symlink_to("n" * 300)
    (folder / "round.txt").symlink_to(folder / "round.txt")
    os.mkfifo(folder / "pipe.txt")
    added = Index(tmp_path / "i").add(folder)
    whys = {os.path.basename(each.where): each.why for each in added.rejected}
    broken = dict.fromkeys(("gone.txt", "round.txt"), "is a broken link")
    assert whys == {**broken, "long.txt": "cannot be read: File name too long", "pipe.txt": "is not a file"}
    assert added.documents == 1


def test_names_that_are_not_utf8_have_a_source_that_is(write, tmp_path):
    folder = write("f/a.txt", "x").parent
    with open(os.fsencode(folder) + b"/\xff.txt", "w") as handle:
        handle.write("x")
    index = Index(tmp_path / "i")
    index.add(folder)
    assert {passage.source for passage in index.search("x")} == {"a.txt", "\\udcff.txt"}


def test_the_whole_real_folder_is_recognised(corpora):
    kinds = {"index.cnxml": 849, ".gz": 3, ".jsonl": 1}
    names = [path.name for path in source_files(corpora)]
    assert {kind: sum(name.endswith(kind) for name in names) for kind in kinds} == kinds
    assert len(names) == len(set(source_files(corpora))) < 860
