import io

import pypdf
import pytest
from libraries import read_documents

from helpers.knowledge.documents import Document


def parts(path):
    """{path: paragraphs} of the only document of a file."""
    (found,) = read_documents(path)
    assert isinstance(found, Document), found
    return {section.path: section.paragraphs for section in found.sections}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_in_any_usual_encoding(write, encoding, end):
    text = f"Fièvre – 38 °C{end}und Öl.{end} {end}Zwei."
    assert parts(write("a.txt", text.encode(encoding))) == {("a",): ["Fièvre – 38 °C und Öl.", "Zwei."]}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t", "is empty"),
        ("a.txt", "\u200b".encode(), "has no text"),
        ("a.txt", b"\x81\x8d\xff", "neither UTF-8"),
        ("a.txt", "no mark".encode("utf-16-le"), "zero bytes"),
        ("a.md", b"---\ntitle: x\n---\n", "has no text"),
        ("a.html", b"<p hidden>x</p><script>y</script>", "has no text"),
        ("a.pdf", b"%PDF-1.4 nothing", "broken PDF"),
        ("a.docx", b"x", "'.docx'"),
        ("noname", b"x", "no suffix"),
    ],
)
def test_what_cannot_be_read_is_a_rejection_and_the_rest_stays(write, name, content, why):
    write(f"f/{name}", content)
    rejection, document = read_documents(write("f/z.txt", "Good.").parent)
    assert why in rejection.why
    assert document.source == "z.txt"


@pytest.mark.parametrize(("name", "limit"), [("a.txt", "MAX_BYTES"), ("a.md", "MAX_MARKDOWN")])
def test_a_huge_file_is_a_rejection(write, monkeypatch, name, limit):
    monkeypatch.setattr(f"helpers.knowledge.own_files.{limit}", 1 << 20)
    (rejection,) = read_documents(write(name, "word " * (1 << 18)))
    assert "larger than 1 MiB" in rejection.why


MARKDOWN = """---
title: Heart
licence: https://creativecommons.org/licenses/by/4.0/
address: https://example.org
---
Intro **bold** and [link](http://x) <!-- not
this -->.

# Valves #
```
# no heading
```
Mitral
------
~~~python
## none
```
~~~
2 * 3 * 4, snake_case_name, *soft* 5#6

| Drug | Dose |
|------|-----:|
| A    | 5 mg |

### Deep

Text.
## Next
#hashtag
"""


TABLE = ["Drug; Dose", "A; 5 mg"]


def test_markdown_headings_without_front_matter(write):
    assert parts(write("heart.md", MARKDOWN)) == {
        ("heart",): ["Intro bold and link ."],
        ("heart", "Valves"): ["# no heading"],
        ("heart", "Valves", "Mitral"): ["## none ```", "2 * 3 * 4, snake_case_name, soft 5#6", *TABLE],
        ("heart", "Valves", "Mitral", "Deep"): ["Text."],
        ("heart", "Valves", "Next"): ["#hashtag"],
    }


def test_text_between_rules_is_no_front_matter(write):
    assert parts(write("a.md", "---\n- list\n\n---\nText.")) == {("a",): ["list", "Text."]}


HTML = """<!DOCTYPE html><html><head><title>Page &amp; more</title><style>p {}</style></head><body><nav>Menu</nav>
<h1>Heart</h1><p>A <b>b</b>old<br>line &eacute; &lt;.</p><script>alert("x")</script><!-- no --><h3>Deep <i>down</i></h3>
<div>One<p>Two</p>Three</div><ul><li>x<li>y</ul><table><tr><th>Drug</th><th>Dose</th></tr><tr><td>A</td><td>5</td></tr>
</table><h2>Next</h2><p style="Display : none">z</p><p hidden>z</p><span aria-hidden="true">z</span>
<template>z</template>
End</body></html>"""


def test_html_as_a_reader_sees_it(write):
    assert parts(write("a.html", HTML)) == {
        ("Page & more", "Heart"): ["A bold line é <."],
        ("Page & more", "Heart", "Deep down"): ["One", "Two", "Three", "x", "y", "Drug; Dose", "A; 5"],
        ("Page & more", "Heart", "Next"): ["End"],
    }


def test_html_in_the_encoding_that_it_declares(write):
    page = '<meta charset="iso-8859-2"><p>łódź</p>'
    assert parts(write("a.htm", page.encode("iso-8859-2"))) == {("a",): ["łódź"]}


@pytest.mark.parametrize("tag", ["b", "li"])
def test_html_nested_30000_deep(write, tag):
    assert parts(write("a.html", f"<{tag}>" * 30_000 + "Deep.")) == {("a",): ["Deep."]}


def pdf(*pages, password=None):
    """A PDF whose pages show these lines of text."""
    writer = pypdf.PdfWriter()
    for lines in pages:
        page = writer.add_blank_page(300, 300)
        font = pypdf.generic.DictionaryObject(
            {pypdf.generic.NameObject(k): pypdf.generic.NameObject(v)
             for k, v in {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}.items()}
        )  # fmt: skip
        fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): writer._add_object(font)})
        page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject(
            {pypdf.generic.NameObject("/Font"): fonts}
        )
        stream = pypdf.generic.StreamObject()
        shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
        stream.set_data(f"BT /F1 12 Tf 20 250 Td {shown}ET".encode())
        page[pypdf.generic.NameObject("/Contents")] = writer._add_object(stream)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    content = io.BytesIO()
    writer.write(content)
    return content.getvalue()


def test_pdf_pages(write):
    assert parts(write("a.pdf", pdf(["Title."], ["The ven-", "tricle."]))) == {
        ("a", "page 1"): ["Title."],
        ("a", "page 2"): ["The ventricle."],
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [(pdf([], []), "no text"), (pdf(["x"], password="secret"), "encrypted"), (pdf(["x"])[:300], "broken PDF")],
)
def test_pdf_without_text_encrypted_or_cut(write, content, why):
    (rejection,) = read_documents(write("a.pdf", content))
    assert why in rejection.why


def test_the_licence_is_that_of_the_nearest_folder(write):
    root = write("f/LICENSE", "\n  MIT License\n\nCopyright").parent
    write("f/a.txt", "x")
    write("f/deep/b.txt", "x")
    write("f/other/LICENCE.txt", "Attribution 4.0 International\n====")
    write("f/other/c.txt", "x")
    (write("f/odd/d.txt", "x").parent / "LICENSE").symlink_to("n" * 300)
    assert {d.source: d.licence for d in read_documents(root)} == {
        "a.txt": "MIT License", "deep/b.txt": "MIT License", "other/c.txt": "CC BY 4.0",
        "odd/d.txt": "MIT License",
    }  # fmt: skip
