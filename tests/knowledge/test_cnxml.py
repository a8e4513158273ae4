import json
import os
import re
from xml.etree import ElementTree

import pytest
from libraries import read_documents

from helpers.knowledge import cnxml
from helpers.knowledge.corpora import read_file, source_files
from helpers.knowledge.documents import Document, Rejection, passages

BOOK = """<col:collection xmlns:col="http://cnx.rice.edu/collxml" xmlns:md="http://cnx.rice.edu/mdml"><metadata>
<md:title>Book %s</md:title><md:license url="http://creativecommons.org/licenses/%s/4.0/"/><md:slug>book-%s</md:slug>
</metadata><col:content>%s</col:content></col:collection>"""
CHAPTER = "<col:subcollection><md:title>Heart</md:title><col:content>%s</col:content></col:subcollection>"


def module(content, name="m1", title="Valves", more=""):
    return f"""<document xmlns="http://cnx.rice.edu/cnxml" xmlns:md="http://cnx.rice.edu/mdml"><title>{title}</title>
<metadata><md:content-id>{name}</md:content-id><md:title>{title}</md:title><md:abstract>Able to ask.</md:abstract>
</metadata><content>{content}</content>{more}</document>"""


def text_of(content, **more):
    """The paragraphs of a module with this content, by heading."""
    (found,) = cnxml.read_module(cnxml.Path("/nowhere/m1/index.cnxml"), module(content, **more).encode())
    return {section.path: section.paragraphs for section in found.sections}


@pytest.fixture
def bundle(write):
    """Two books: m2 and m1 in the first, m1 and m3 in the second; m4 is in none."""
    modules = [f'<col:module document="{name}"/>' for name in ("m1", "m2", "m3")]
    write("b/collections/a.collection.xml", BOOK % ("A", "by", "a", modules[1] + CHAPTER % modules[0]))
    write("b/collections/z.collection.xml", BOOK % ("Z", "by-nc-sa", "z", modules[0] + modules[2]))
    for name in ("m1", "m2", "m3", "m4"):
        path = write(f"b/modules/{name}/index.cnxml", module("<para>Blood flows. " * 5 + "</para>" * 5, name))
    return path.parents[2]


def test_a_bundle_is_read_in_the_order_of_its_books_and_a_shared_module_once(bundle):
    found = list(read_documents(bundle))
    assert [(d.source, d.sections[0].path, d.licence, d.address) for d in found] == [
        ("m2", ("Book A", "Valves"), "CC BY 4.0", "https://openstax.org/details/books/book-a"),
        ("m1", ("Book A", "Heart", "Valves"), "CC BY 4.0", "https://openstax.org/details/books/book-a"),
        ("m3", ("Book Z", "Valves"), "CC BY-NC-SA 4.0", "https://openstax.org/details/books/book-z"),
        ("m4", ("Valves",), "", ""),
    ]


def test_a_module_alone_and_its_folder_alone_find_their_book(bundle):
    path = bundle / "modules/m1/index.cnxml"
    (alone,) = read_documents(path)
    assert alone.sections[0].path == ("Book A", "Heart", "Valves")
    in_folder = {d.source: d for d in read_documents(bundle / "modules")}
    assert in_folder["m1"] == alone
    assert len(in_folder) == 4


def test_a_changed_collection_is_read_again(bundle):
    path = bundle / "modules/m1/index.cnxml"
    (before,) = read_file(path, bundle)
    file = bundle / "collections/a.collection.xml"
    file.write_text(file.read_text().replace("Book A", "Book A, second edition"))
    (after,) = read_file(path, bundle)
    assert (before.sections[0].path[0], after.sections[0].path[0]) == ("Book A", "Book A, second edition")


def test_a_broken_collection_is_one_rejection_and_its_modules_stay(bundle):
    (bundle / "collections/a.collection.xml").write_text("<col")
    found = list(read_documents(bundle))
    assert {d.source for d in found if isinstance(d, Document)} == {"m1", "m2", "m3", "m4"}
    assert [d.where for d in found if isinstance(d, Rejection)] == [str(bundle / "collections/a.collection.xml")]


def test_a_module_that_a_book_lists_and_the_folder_lacks_is_named(bundle):
    outside = '<col:module document="../../m1"/><col:module document=""/>'  # no folder of modules/
    (bundle / "collections/y.xml").write_text(BOOK % ("Y", "by", "y", outside))
    (bundle / "modules/m1/index.cnxml").unlink()
    found = list(read_documents(bundle))
    assert [d.source for d in found if isinstance(d, Document)] == ["m2", "m3", "m4"]
    lacking = str(bundle / "modules/m1/index.cnxml")
    assert [d for d in found if isinstance(d, Rejection)] == [Rejection(lacking, "is not there")]


def test_a_collection_that_is_no_file_is_not_waited_for(bundle):
    os.mkfifo(bundle / "collections/p.xml")
    (bundle / "collections/q.xml").symlink_to("nowhere")
    found = list(read_documents(bundle))
    assert [d.where[-5:] for d in found if isinstance(d, Rejection)] == ["p.xml", "q.xml"]
    assert len(found) > 2


def test_sections_and_notes_are_headings_and_exercises_are_gone():
    found = text_of(
        """<para>Before.</para><section><title>Flow</title><para>Inner.</para>
        <note><title>Aging</title><para>Old.</para></note><para>After.</para>
        <exercise><label>Recall</label><problem><para>Asked?</para></problem><solution><para>Told.</para></solution></exercise></section>
        <section class="review-questions"><title>Test</title><para>Hidden</para></section>
        <section><title>Critical Thinking Questions</title><para>Hidden</para></section>
        <section><title>Critical Thinking in Nursing</title><para>Kept.</para></section>
        <note class="case-reflection"><title>Case</title><para>A man.</para><list><item>Why?</item></list></note>""",
        more="<glossary><definition><term>atrium</term> <meaning>upper chamber</meaning></definition></glossary>",
    )
    assert found == {
        ("Valves",): ["Before."],
        ("Valves", "Flow"): ["Inner.", "After."],
        ("Valves", "Flow", "Aging"): ["Old."],
        ("Valves", "Critical Thinking in Nursing"): ["Kept."],
        ("Valves", "Case"): ["A man."],
        ("Valves", "Glossary"): ["atrium: upper chamber"],
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Na<sup>+</sup>, H<sub>2</sub>O and 10<sup>−6</sup> m<sup>2</sup>", "Na+, H2O and 10^−6 m2"),
        ("the <term>left</term><emphasis>ward</emphasis> side<newline/>below", "the leftward side below"),
        ("a&#160;b &#945; &lt; c", "a b α < c"),
        ("shown (<link target-id='f'/>) and (see <link target-id='f'/>, <link target-id='f'/>).", "shown and."),
        ("In <link target-id='f'/> and <link target-id='s'/>.", "In Figure and Deep veins."),
        ("see (<link url='x'>the site</link>)", "see (the site)"),
        ("so<footnote>Smith 2020.</footnote> it is", "so it is Smith 2020."),
        ("zero\u200bwidth so\u00adft <!-- no --> end\u202e", "zerowidth soft end"),
    ],
)
def test_inline_tags_neither_join_nor_split_words(content, expected):
    rest = "<figure id='f'><media alt='x'/></figure><section id='s'><title>Deep veins</title></section>"
    assert " ".join(text_of(f"<para>{content}</para>{rest}")[("Valves",)]) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<mfrac><mn>1</mn><mn>2</mn></mfrac>", "1/2"),
        ("<mn>1</mn><mfrac><mn>1</mn><mn>2</mn></mfrac><mo>×</mo><mi>x</mi>", "1 1/2 × x"),
        ("<msup><mi>x</mi><mn>2</mn></msup>", "x^2"),
        ("<msubsup><mtext>HPO</mtext><mn>4</mn><mrow><mn>2</mn><mo>−</mo></mrow></msubsup>", "HPO42−"),
        ("<msqrt><mi>a</mi><mo>+</mo><mi>b</mi></msqrt>", "√(a + b)"),
        ("<mi>MAP</mi><mo> </mo><mo>=</mo><mo> </mo><mi>CO</mi><mo>&#160;</mo><mi>SVR</mi>", "MAP = CO SVR"),
    ],
)
def test_formulas_are_text(content, expected):
    math = f'<math xmlns="http://www.w3.org/1998/Math/MathML">{content}</math>'
    assert text_of(f"<para>is {math}.</para>")[("Valves",)] == [f"is {expected}."]


def test_lists_and_captions_are_paragraphs():
    found = text_of(
        """<para>Kinds: <list list-type="enumerated"><item>one<list><item>inner</item></list></item><item>two</item>
        </list> end.</para>
        <figure><title>Mitral</title><media alt="no"><image/></media><caption>Open.</caption></figure>
        <equation><label/>text</equation>"""
    )
    assert found[("Valves",)] == ["Kinds:", "1. one - inner", "2. two", "end.", "Mitral", "Open.", "text"]


def table(head, body):
    specs = "".join(f'<colspec colname="c{n}"/>' for n in (1, 2, 3))
    return f"<table><tgroup cols='3'>{specs}{head}<tbody>{body}</tbody></tgroup><caption>Doses</caption></table>"


def row(*cells):
    return "<row>" + "".join(f"<entry {a}>{text}</entry>" for a, text in cells) + "</row>"


def test_each_row_of_a_table_can_be_read_alone():
    head = row(('namest="c1" nameend="c3"', "All drugs")) + row(("", "Drug"), ("", "Dose"), ("", "Note"))
    body = row(('morerows="1"', "A<newline/>(B)"), ("", "5 mg"), ("", "")) + row(("", "9 mg"), ("", "late"))
    body += row(('namest="c1" nameend="c3"', "Others")) + row(("", "C"), ('namest="c2" nameend="c3"', "none"))
    assert text_of(table(f"<thead>{head}</thead>", body))[("Valves",)] == [
        "Doses", "All drugs", "Drug: A (B); Dose: 5 mg", "Drug: A (B); Dose: 9 mg; Note: late", "Others",
        "Drug: C; Dose, Note: none",
    ]  # fmt: skip
    assert text_of(table("", row(("", "x"), ("", "y"))))[("Valves",)] == ["Doses", "x; y"]


def test_a_cell_that_claims_endless_rows_and_columns_stays_small():
    found = text_of(table("", row(('morerows="999999999"', "x"), ("", "y")) + row(("", "z"))))
    assert found[("Valves",)] == ["Doses", "x; y", "x; z"]


LAUGHS = "".join(f'<!ENTITY {"abcdefghij"[n + 1]} "{("&" + "abcdefghij"[n] + ";") * 10}">' for n in range(9))
LAUGHS = f'<!DOCTYPE d [<!ENTITY a "ha">{LAUGHS}]>'


@pytest.mark.parametrize(
    ("head", "content", "why"),
    [
        (LAUGHS, "<para>&j;</para>", "declares XML entities"),
        ('<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "<para>&x;</para>", "declares XML entities"),
        ('<!DOCTYPE d [<!ENTITY % x SYSTEM "http://localhost/x.dtd"> %x;]>', "", "declares XML entities"),
        ("", "<para>" * 100_000 + "</para>" * 100_000, "levels of tags"),
        ("", "<para>" * 100_000, "levels of tags"),
        ("", "<para>&unheard;</para>", "undefined entity"),
        ("", "<para>\x01</para>", "is broken XML"),
        ('<?xml version="1.0" encoding="ebcdic-nowhere"?>', "", "is broken XML"),
    ],
)
def test_dangerous_or_broken_xml_is_one_rejection(write, head, content, why):
    good, bad = write("b/a/index.cnxml", module("<para>Good.</para>")), write("b/z.cnxml", head + module(content))
    document, rejection = read_documents(bad.parent)
    assert (document.source, document.sections[0].paragraphs) == ("m1", ["Good."])
    assert rejection.where == str(bad)
    assert why in rejection.why
    assert "\n" not in rejection.why
    assert good in source_files(bad.parent)


@pytest.mark.parametrize(
    ("name", "modules", "drafts"),
    [("anatomy-physiology", 198, 0), ("microbiology", 159, 0), ("nursing-external-bundle", 492, 11)],
)
def test_the_real_books_are_complete(corpora, name, modules, drafts):
    folder = corpora / f"openstax-{name}"
    files = source_files(folder)
    assert len(files) == modules
    in_books = set(re.findall(r'document="(\w+)"', "".join(f.read_text() for f in folder.glob("collections/*.xml"))))
    in_none = [path for path in files if path.parent.name not in in_books]
    assert [type(entry) for path in in_none for entry in read_file(path, folder)] == [Rejection] * drafts
    some = [path for path in files if path not in in_none][::10]
    documents = [entry for path in some for entry in read_file(path, folder)]
    assert [document.source for document in documents] == [path.parent.name for path in some]
    assert {document.licence for document in documents} == {"CC BY 4.0"}
    assert all(document.address and len(document.sections[0].path) >= 2 for document in documents)


def poisoned(path):
    """The module with every word of its exercises, and of the sections that hold them, replaced."""
    root = ElementTree.fromstring(path.read_bytes())
    for exercise in [e for e in root.iter() if cnxml.local(e) in ("exercise", "problem", "solution")]:
        for element in exercise.iter():
            element.text = "poison" if element.text and element.text.strip() else element.text
            if element is not exercise:
                element.tail = "poison" if element.tail and element.tail.strip() else element.tail
    return ElementTree.tostring(root)


def test_no_word_of_an_exercise_is_in_a_real_passage(corpora):
    exercised = [p for p in sorted(corpora.glob("openstax-*/modules/*/index.cnxml")) if b"<exercise" in p.read_bytes()]
    assert len(exercised) > 300
    for path in exercised[::15]:
        (plain,), (other,) = cnxml.read_module(path, path.read_bytes()), cnxml.read_module(path, poisoned(path))
        assert other == plain


def test_no_review_question_is_in_the_passages_of_its_module(corpora):
    def plain(text):
        return " ".join(re.findall(r"\w+", text.lower()))

    rows = (corpora.parent / "data/textbook_mcq_dev.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in rows]
    assert len(questions) == 660
    asked = sorted({(q["book"], q["module"]) for q in questions})[::4]
    texts = {}
    for book, module in asked:
        (document,) = read_documents(corpora / f"openstax-{book}/modules/{module}/index.cnxml")
        texts[module] = plain(" ".join(f"{p.title} {p.text}" for p in passages(document)))
    assert [q["id"] for q in questions if plain(q["question"]) in texts.get(q["module"], "")] == []
