"""Files and replies made at random: each ends in a result, a counted rejection or one clear line, and soon.

`make test` tries a few of each; `AI_DOCTOR_FUZZ=5000 pytest -m slow tests/test_fuzz.py` as many as it says.
"""

import json
import os
import re
import time
from collections import Counter

import dirty_files
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from knowledge.test_cnxml import module
from knowledge.test_pubmed import article, records
from libraries import read_documents
from sources.test_dirty import ROLES, fault_of

from helpers import InputError
from helpers.knowledge.documents import Deletion, Document, Rejection, passages
from helpers.prompts.encoding import split_reasoning
from helpers.scoring.choice import extract_choice

FEW, MANY = 15, int(os.environ.get("AI_DOCTOR_FUZZ", 1000))
SECONDS = 2  # of the processor, for one example


def fuzz(few=FEW, **strategies):
    """Makes two tests of a check: one with a few examples, and a slow one with many."""

    def make(check):
        def timed(folder, **drawn):
            began = time.process_time()
            check(folder, **drawn)
            assert time.process_time() - began < SECONDS

        def made(count, **how):
            quiet = settings(
                max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck], **how
            )

            def test(tmp_path_factory, **drawn):
                timed(tmp_path_factory.mktemp("f"), **drawn)

            return quiet(given(**strategies)(test))

        globals()[f"{check.__name__}_with_many"] = pytest.mark.slow(made(MANY))
        return made(few, derandomize=True)

    return make


# What is put in the place of a part of a file.
ODD = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b"\\", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8",
    b"null", b"NaN", b"1e999", b"\\ud800", b"\xef\xbb\xbf", b"</think>", b"\x1b[31m", b"<", b">", b"</", b"/>", b"&",
    b"&#0;", b"&#xD800;", b"&x;", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?", b"?>",
    b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"xmlns=''", b"---\n", b"```", b"|", b"\t",
    b"#" * 9, b" " * 500, b"[" * 300, b"<a>" * 300, b"9" * 5000,
    b"{{", b"=\n", b"\xc3",
]  # fmt: skip
PIECES = st.one_of(st.sampled_from(ODD), st.binary(max_size=12))
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), PIECES), min_size=1, max_size=6)


def changed(content, changes):
    """The content with a stretch replaced at each of the places."""
    for place, length, piece in changes:
        at = round(place * len(content))
        content = content[:at] + piece + content[at + length :]
    return content


# Tables -----------------------------------------------------------------------------------------------------------


@fuzz(role=st.sampled_from([*ROLES]), changes=CHANGES)
def test_changed_lines_among_good_ones(folder, role, changes):
    good = [dirty_files.lines([dirty_files.GOOD[role](k)]) for k in range(4)]
    bad = changed(dirty_files.lines([dirty_files.GOOD[role](k) for k in (7, 8)]), changes)
    content = b"".join([*good[:2], bad, b"\n", *good[2:]])
    assert fault_of(("", "a.jsonl", content, 4), folder / "x", *ROLES[role]) == ""


@fuzz(role=st.sampled_from([*ROLES]), changes=CHANGES, name=st.sampled_from(["a.json", "a.csv", "a.parquet"]))
def test_a_changed_table(folder, role, changes, name):
    rows = [dirty_files.GOOD[role](k) for k in range(5)]
    content = {
        "a.json": lambda: json.dumps(rows, indent=1).encode(),
        "a.csv": lambda: dirty_files.csv_text(rows).encode(),
        "a.parquet": lambda: dirty_files.table_bytes(pa.Table.from_pylist(rows)),
    }[name]()
    assert fault_of(("", name, changed(content, changes), 0), folder / "x", *ROLES[role]) == ""


TEXT = st.text(st.characters(codec=None), max_size=30)  # with halves of surrogate pairs
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
FIELDS = [*dirty_files.COLUMNS, "id", "question", "options", "answer_idx", "context", "relevant", "specialty", ""]


@fuzz(
    role=st.sampled_from([*ROLES]),
    rows=st.lists(st.dictionaries(st.sampled_from(FIELDS) | TEXT, JSON, max_size=6) | JSON, min_size=1, max_size=3),
    listed=st.booleans(),
    based=st.booleans(),
)
def test_any_values_among_good_rows(folder, role, rows, listed, based):
    good = [dirty_files.GOOD[role](k) for k in range(4)]
    if based:
        rows = [{**dirty_files.GOOD[role](9), **row} if isinstance(row, dict) else row for row in rows]
    rows = [*good[:2], *rows, *good[2:]]
    content = json.dumps(rows) if listed else "".join(json.dumps(row) + "\n" for row in rows)
    name = "a.json" if listed else "a.jsonl"
    assert fault_of(("", name, content.encode(), 4), folder / "x", *ROLES[role]) == ""


# Replies ----------------------------------------------------------------------------------------------------------

TAGS = ["<think>", "</think>"]
SAID = [
    *TAGS, "\n", " ", ". ", ", ", "The answer is ", "answer: ", "(A)", "B", "C.", "**D**", "\\boxed{A}", "not ", "or ",
    "and ", "if ", "Option ", "is correct", "is wrong", "Wait, ", "therefore ", "Aspirin", "Rest", "yes", "no", "‹T:A›",
    "<answer>", "</answer>", "答案是", "选", "die Antwort ist ", "[1]", "A) ", "- ", "|", "most likely ", "?",
    "A " * 50, "(", ")" * 40, "is " * 40, "the " * 60, "which of the following " * 9, "\u202e", "\ud800", "\x00",
    "Ａ", "А", "*" * 60,
]  # fmt: skip
REPLY = st.lists(st.sampled_from(TAGS) | st.sampled_from(SAID) | TEXT, max_size=40).flatmap(
    lambda parts: st.sampled_from([1, 1, 1, 20]).map(lambda times: "".join(parts) * times)
)


@fuzz(few=60, reply=REPLY)
def test_any_reply_is_split(folder, reply):
    found = split_reasoning(reply)
    assert found.closed == ("</think>" in reply and "<think>" not in reply.rpartition("</think>")[2])
    assert found.thinking in reply
    assert found.answer in reply
    if found.closed:
        assert found.answer == reply.rpartition("</think>")[2].strip()
    else:
        assert found.answer == ""


OPTIONS = st.dictionaries(
    st.sampled_from("ABCDEabcde"), st.sampled_from(["Aspirin", "Rest", "yes", "no", "", "B", "(", "C."]) | TEXT
)


@fuzz(few=100, reply=REPLY, options=OPTIONS, closed=st.booleans())
def test_any_reply_states_one_of_the_options_or_none(folder, reply, options, closed):
    options = {letter: text for letter, text in options.items() if letter.isupper() or letter.upper() not in options}
    choice = extract_choice(("</think>" if closed else "") + reply, options)
    event(f"choice: {choice}")
    assert choice is None or choice in options
    if "</think>" not in reply and not closed:
        assert choice is None


# Texts to look things up in ---------------------------------------------------------------------------------------


def read(source):
    """What was found in a source; [] for one that is refused in a line. Passages can be made of it all, and written."""
    try:
        found = list(read_documents(source))
    except InputError:
        return []
    for each in found:
        assert isinstance(each, Document | Deletion | Rejection)
        if isinstance(each, Document):
            json.dumps([passage.text for passage in passages(each)], ensure_ascii=False).encode()
        elif isinstance(each, Rejection):
            assert (each.where + each.why).isprintable()
    return found


def sources(found):
    return [each.source for each in found if isinstance(each, Document)]


@fuzz(changes=CHANGES, number=st.booleans())
def test_a_changed_record_of_pubmed_between_good_ones(folder, changes, number):
    middle = article(22, "A <i>title</i>.", "<AbstractText Label='A'>Text &lt; 5.</AbstractText>")
    before, after = records(article(11), "@@", article(33)).split("@@")
    path = folder / ("pubmed26n0001.xml" if number else "a.xml")
    path.write_bytes(before.encode() + changed(middle.encode(), changes) + after.encode())
    found = read(folder)
    assert "11" in sources(found)
    assert (
        "33" in sources(found)
        or any(isinstance(each, Rejection) for each in found)
        or b"33" not in path.read_bytes()
        or hidden(path)
    )


def hidden(path):
    """Whether the last record stands in another one or in a comment: well-formed XML that says something else."""
    return bool(re.search(rb"<!--|<!\[CDATA\[|<\?|<a>", path.read_bytes()[150:]))


MODULE = """<para>Blood <emphasis>flows</emphasis>.</para><section><title>More</title><list><item>a</item></list><table>
<tgroup cols="2"><tbody><row><entry>x</entry><entry>y</entry></row></tbody></tgroup></table><para>See
<link target-id="f"/> and <m:math xmlns:m="m"><m:mi>x</m:mi></m:math>.</para></section>"""


@fuzz(changes=CHANGES)
def test_a_changed_module_beside_a_good_one(folder, changes):
    content = module(MODULE)
    texts = {"m1": changed(content.encode(), changes), "m2": module("<para>Good.</para>", "m2").encode()}
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "index.cnxml").write_bytes(text)
    found = read(folder)
    assert len(found) == 2
    assert sources(found)[-1] == "m2"


@fuzz(changes=CHANGES, ending=st.sampled_from([".txt", ".md", ".html", ".pdf", ".xml", ".xml.gz", ".cnxml"]))
def test_a_changed_file_of_ones_own_beside_a_good_one(folder, changes, ending):
    (folder / f"a{ending}").write_bytes(
        changed(OWN.get(ending, b"# Title\n\nText *of* [it](x).\n\n- a\n- b\n"), changes)
    )
    (folder / "z.txt").write_text("Good text.")
    assert sources(read(folder))[-1] == "z.txt"


OWN = {
    ".html": b"<html><head><title>T</title><script>x</script></head><body><h1>A</h1><p>Text<table><tr><td>b</table>",
    ".pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<<>>>>endobj\n4 0 obj<</Length 20>>"
    b"stream\nBT /F1 9 Tf (Hi) Tj ET\nendstream endobj\ntrailer<</Root 1 0 R/Size 5>>\n%%EOF",
    ".xml": module(MODULE).encode(),
    ".md": b"---\ntitle: T\nlicence: CC BY 4.0\n---\n# A\n\nText `code`\n\n```\n# no\n```\n\nHead\n====\n| a |\n|--|\n",
}


@fuzz(changes=CHANGES, pairs=st.booleans())
def test_changed_rows_of_text_among_good_ones(folder, changes, pairs):
    def row(k):
        text = f"Text number {k}."
        pair = {"id": f"{k}", "source": "GARD", "url": "", "focus": "f", "question": "q", "answer": text}
        return pair if pairs else {"id": f"{k}", "title": "t", "text": text}

    bad = changed(dirty_files.lines([row(7), row(8)]), changes)
    good = [dirty_files.lines([row(k)]) for k in range(4)]
    (folder / "a.jsonl").write_bytes(b"".join([*good[:2], bad, b"\n", *good[2:]]))
    found = read(folder)
    texts = Counter(s.paragraphs[0] for each in found if isinstance(each, Document) for s in each.sections)
    assert all(texts[f"Text number {k}."] for k in range(4))
