"""Broken and hostile files as `retrieval.sources` and `data.corpus`: a good file beside each is read all the same."""

import gzip
import os
import time
from pathlib import Path

import dirty_files
import pytest
from libraries import read_documents

from helpers import InputError
from helpers.knowledge.documents import Document, Rejection

ENDINGS = (".txt", ".md", ".html", ".pdf", ".xml", ".xml.gz", ".cnxml", ".jsonl")
SECONDS = 2  # of the processor
HEADS = {name: content for name, _, content, _ in dirty_files.other_kinds("rows") if isinstance(content, bytes)}
CONTENTS = [*{content[:60]: content for content in HEADS.values()}.values()]
CONTENTS += [b"", b" \n", b"\x00" * 999, b"\xff\xfe\x00", "é".encode("utf-16"), b"<", b"&#0;&#xD800;", b"<a>" * 10**4]
CONTENTS += [b"a" * 10**5, *(part * 10**4 for part in (b"[", b"- ", b"#", b"---\n", b"|")), b"\r" * 999]
CONTENTS += [b"---\na: *b\n---\n", b"\x1b[31m\x1b]0;x\x07", b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>"]
CONTENTS += [b'{"text": "\\ud800\\u0000"}\n']
SPECIAL = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path.name),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "6 GB": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 6 << 30),
}


def read(source):
    """What a source holds; a refusal in one line as a Rejection."""
    began = time.process_time()
    try:
        found = list(read_documents(source))
    except InputError as error:
        found = [Rejection(str(source), str(error))]
    assert time.process_time() - began < SECONDS
    assert all((each.where + each.why).isprintable() for each in found if isinstance(each, Rejection))
    return found


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_broken_file_harms_no_other_and_is_not_passed_over(tmp_path, ending):
    for number, content in enumerate(CONTENTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"a{ending}").write_bytes(content)
        (folder / "z.txt").write_text("Good text.")
        *bad, good = read(folder)
        assert (good.source, bool(bad)) == ("z.txt", True), content[:30]
        assert read(folder / f"a{ending}")


@pytest.mark.parametrize("head", [b"", b"<?xml version='1.0'?><!--", b"<PubmedArticleSet a='", b"<a"])
def test_a_packed_file_without_a_root_is_not_read_to_its_end(tmp_path, head):
    with gzip.open(tmp_path / "a.xml.gz", "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(300):
            file.write(b" " * (1 << 20))
    (tmp_path / "z.txt").write_text("Good text.")
    bad, good = read(tmp_path)
    assert (good.source, "has no root element" in bad.why) == ("z.txt", True)


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("ending", [".txt", ".xml", ".xml.gz", ".jsonl", ".cnxml"])
def test_what_is_no_plain_file_is_not_waited_for(tmp_path, what, ending):
    (tmp_path / "z.txt").write_text("Good text.")
    SPECIAL[what](tmp_path / f"a{ending}")
    assert isinstance(read(tmp_path)[-1], Document)
    read(tmp_path / f"a{ending}")


def test_a_line_too_long_costs_no_line_after_it(write):
    row = b'{"text": "Good text."}\n'
    found = read(write("a.jsonl", row + b"x" * (17 << 20) + b"\n" + row))
    assert [type(each).__name__ for each in found] == ["Document", "Rejection", "Document"]


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202egpj", "\udcff", "[a]", "**"])
def test_a_name_that_a_terminal_would_obey_is_escaped(tmp_path, name):
    (tmp_path / f"{name}.pdf").write_bytes(b"%PDF")
    (tmp_path / f"{name}.txt").write_text("Good text.")
    assert sorted(type(each).__name__ for each in read(tmp_path)) == ["Document", "Rejection"]
