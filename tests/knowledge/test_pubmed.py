import hashlib
import tracemalloc

import pytest
from libraries import read_documents

from helpers.knowledge.corpora import source_files
from helpers.knowledge.documents import Deletion, Document, Rejection
from helpers.knowledge.index import Index
from helpers.knowledge.pubmed import LICENCE, read_pubmed

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2019//EN" "http://dtd.nlm.nih.gov/x.dtd">
"""


def article(pmid, title="A title.", abstract="", version=1, rest="", inside=""):
    abstract = f"<Abstract>{abstract}</Abstract>" if abstract else ""
    return f"""<PubmedArticle><MedlineCitation><PMID Version="{version}">{pmid}</PMID><DateRevised><Year>2026</Year>
<Month>1</Month><Day>31</Day></DateRevised><Article><ArticleTitle>{title}</ArticleTitle>{abstract}{inside}</Article>
{rest}</MedlineCitation><PubmedData><ReferenceList><Reference><Citation>Not this.</Citation><ArticleIdList>
<ArticleId IdType="pubmed">99</ArticleId></ArticleIdList></Reference></ReferenceList></PubmedData></PubmedArticle>"""


def records(*inside):
    return f"{HEAD}<PubmedArticleSet>{''.join(inside)}</PubmedArticleSet>"


def only(write, *inside):
    (found,) = read_pubmed(write("found.xml", records(*inside)))
    return found


def test_an_abstract_has_its_labels_and_inline_markup_as_text(write):
    abstract = """<AbstractText Label="BACKGROUND">Ca<sup>2+</sup> and <i>E. coli</i> at 10<sup>5</sup>.</AbstractText>
    <AbstractText Label="UNLABELLED">H<sub>2</sub>O &lt; 5.</AbstractText><AbstractText Label="END"/>
    <CopyrightInformation>© 2026 X.</CopyrightInformation>"""
    found = only(write, article("0123", "<b>Bold</b>ly.", abstract))
    assert [(s.path, s.paragraphs) for s in found.sections] == [
        (("Boldly.",), ["BACKGROUND: Ca2+ and E. coli at 10^5.", "H2O < 5."])
    ]
    assert (found.source, found.licence, found.address) == ("123", "© 2026 X.", "https://pubmed.ncbi.nlm.nih.gov/123/")


OTHER = '<OtherAbstract Type="x" Language="{}"><AbstractText>{}</AbstractText></OtherAbstract>'


def test_what_stands_in_for_a_missing_abstract(write):
    english, french = OTHER.format("eng", "Plain words."), OTHER.format("fre", "En français.")
    cases = {
        article(1, rest=french + english): ["Plain words."],
        article(1, rest=french): ["A title."],
        article(1, abstract="<AbstractText>First.</AbstractText>", rest=english): ["First."],
        article(1, abstract="<AbstractText> </AbstractText>"): ["A title."],
    }
    assert {case: only(write, case).sections[0].paragraphs for case in cases} == cases


@pytest.mark.parametrize(
    ("citation", "title"),
    [
        (article(1, "", inside="<VernacularTitle>Herz.</VernacularTitle>"), "Herz."),
        (article(1, inside="<PublicationType>Retracted Publication</PublicationType>"), "Retracted: A title."),
        (article(1, rest='<CommentsCorrections RefType="RetractionIn"/>'), "Retracted: A title."),
        (article(1, "RETRACTED: A.", rest='<CommentsCorrections RefType="RetractionIn"/>'), "RETRACTED: A."),
        (article(1, "Retraction of the iris.", rest='<CommentsCorrections RefType="RetractionIn"/>'),
         "Retracted: Retraction of the iris."),
        (article(1, rest='<CommentsCorrections RefType="RetractionOf"/>'), "A title."),
    ],
)  # fmt: skip
def test_titles(write, citation, title):
    assert only(write, citation).sections[0].path == (title,)


def test_a_book_article_is_a_document(write):
    book = """<PubmedBookArticle><BookDocument><PMID Version="1">7</PMID><Book><BookTitle>Reviews</BookTitle></Book>
    <ArticleTitle>Gout</ArticleTitle><Abstract><AbstractText>Urate.</AbstractText></Abstract></BookDocument>
    </PubmedBookArticle>"""
    found = only(write, book)
    assert (found.source, found.sections[0].path, found.sections[0].paragraphs) == ("7", ("Gout",), ["Urate."])


def test_versions_sort_by_file_then_by_pmid_version_and_deletions_after_their_file(write):
    deletion = "<DeleteCitation><PMID Version='1'>5</PMID></DeleteCitation>"
    names = ("pubmed20n1016", "pubmed26n0999", "pubmed26n1334", "pubmed26n10000", "pubmed27n0001")
    files = [write(f"{name}.xml.gz", records(article(5), article(5, version=12), deletion)) for name in names]
    versions = [entry.version for file in files for entry in read_pubmed(file)]
    assert versions == sorted(set(versions))
    (fetched,) = read_pubmed(write("batch-0000.xml", records(article(5))))
    assert fetched.version == "2026-01-31.001" < versions[0]


def test_records_outlast_their_file_and_wait_for_nlms_deletion(write, tmp_path):
    first = write("nlm/pubmed26n0001.xml", records(article(1), article(2)))
    index = Index(tmp_path / "index.sqlite")
    index.add(first.parent)
    first.unlink()
    write("nlm/pubmed26n0002.xml", records("<DeleteCitation><PMID Version='1'>2</PMID></DeleteCitation>"))
    assert (index.add(first.parent).deleted, index.documents) == (1, 1)


def test_a_record_without_a_pmid_or_words_is_a_rejection_and_the_others_stay(write):
    odd = [article("x"), article(2, title=""), "<PubmedArticle/>", article("5" * 40)]
    found = list(read_pubmed(write("odd.xml", records(article(1), *odd, article(3)))))
    assert [type(entry) for entry in found] == [Document, Rejection, Rejection, Rejection, Rejection, Document]
    assert [entry.source for entry in found if isinstance(entry, Document)] == ["1", "3"]


@pytest.mark.parametrize("line", ["MD5(pubmed26n0001.xml.gz)= {}", "{}  pubmed26n0001.xml.gz"])
def test_a_file_with_another_md5_is_one_rejection(write, line):
    path = write("pubmed26n0001.xml.gz", records(article(1)))
    beside = path.with_name(path.name + ".md5")
    beside.write_text(line.format(hashlib.md5(path.read_bytes()).hexdigest()))
    assert [entry.source for entry in read_pubmed(path)] == ["1"]
    beside.write_text(line.format("0" * 32))
    (rejection,) = read_pubmed(path)
    assert "MD5" in rejection.why


def test_of_a_damaged_gzip_the_records_before_are_kept(write):
    path = write("pubmed26n0001.xml.gz", records(*(article(n, title=f"Title {n * n}") for n in range(1, 1000))))
    whole = path.read_bytes()
    checksum = whole[:-8] + b"\0\0\0\0" + whole[-4:]
    for damaged, least in ((whole[: len(whole) // 2], 400), (whole[:-9], 999), (checksum, 999)):
        path.write_bytes(damaged)
        *found, rejection = read_pubmed(path)
        assert len(found) >= least
        assert "records before that are kept" in rejection.why


@pytest.mark.parametrize(
    "rest", ["<PubmedArticle><broken" + article(3) + "</PubmedArticleSet>", "</PubmedArticleSet>" + records(article(3))]
)
def test_of_broken_xml_and_of_two_answers_in_one_file_the_records_before_are_kept(write, rest):
    whole = records(article(1), article(2)).removesuffix("</PubmedArticleSet>")
    first, second, rejection = read_pubmed(write("cut.xml", whole + rest))
    assert (first.source, second.source) == ("1", "2")
    assert "records before that are kept" in rejection.why


def test_entities_declared_inside_are_refused(write):
    declared = records(article(1)).replace('x.dtd">', 'x.dtd" [<!ENTITY a "b">]>')
    (rejection,) = read_pubmed(write("declared.xml", declared))
    assert "entities" in rejection.why


def test_a_record_without_end_does_not_fill_the_memory(write, monkeypatch):
    monkeypatch.setattr("helpers.knowledge.markup.MAX_RECORD", 1 << 20)
    good, rejection = read_pubmed(write("long.xml.gz", records(article(1), article(2, title="x" * (5 << 20)))))
    assert (good.source, "more than 1 MiB" in rejection.why) == ("1", True)


def test_memory_does_not_grow_with_the_number_of_records(write):
    def peak(count):
        path = write(
            "many.xml", records(*(article(n, abstract="<AbstractText>w</AbstractText>" * 9) for n in range(1, count)))
        )
        tracemalloc.start()
        assert sum(1 for _ in read_pubmed(path)) == count - 1
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(1000) < 1.5 * peak(200)


def test_the_real_files(corpora):
    files = source_files(corpora / "pubmed")
    assert [file.name[:13] for file in files] == ["pubmed20n1016", "pubmed26n1334", "pubmed26n1335"]
    found = list(read_documents(corpora / "pubmed"))
    documents = [entry for entry in found if isinstance(entry, Document)]
    deletions = [entry for entry in found if isinstance(entry, Deletion)]
    assert (len(documents), len(deletions), len(found)) == (86, 268, 354)
    assert {d.source: d.licence for d in documents}["10658653"] == LICENCE
    assert all("<" not in d.sections[0].path[0] for d in documents)
    whole = next(d for d in documents if d.source == "26228458")
    assert [p.partition(":")[0] for p in whole.sections[0].paragraphs] == [
        "BACKGROUND", "METHODS", "RESULTS", "CONCLUSIONS"
    ]  # fmt: skip
