"""Whether the search finds the document that answers, counted by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from choices import choice_question
from libraries import document, library_of

from helpers.knowledge.dense import FusedIndex
from helpers.retrieval.finding import WORDS_ALONE, find, queries
from helpers.retrieval.remarks import on_finding
from helpers.scoring.statistics import share_interval

ALONE = {"question": lambda question: question.question}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Asked for `heart`, the index gives d0 to d11 in this order, and x for `zebra`."""
    alike = [document(f"d{n}", "The heart beats.") for n in range(12)]
    filler = [document(f"f{n}", f"Bones and joints, number {n}.") for n in range(30)]
    return library_of(tmp_path_factory.mktemp("found") / "index.sqlite", *alike, *filler, document("x", "A zebra."))


def asked_for(*relevant, text="heart"):
    return [choice_question(n, text, relevant=each) for n, each in enumerate(relevant)]


def test_hits_and_mean_reciprocal_rank_are_those_counted_by_hand(library):
    """The right documents are first, fifth, sixth, tenth and eleventh; the last question names none."""
    found = find(library, asked_for("d0", "d4", "d5", "d9", "d10", None), ALONE)["question"]
    assert found["n"] == 5
    assert {k: each["share"] for k, each in found["hits"].items()} == {"1": 0.2, "5": 0.4, "10": 0.8}
    assert found["hits"]["5"]["ci95"] == list(share_interval(2, 5))
    assert found["mrr"] == pytest.approx((1 + 1 / 5 + 1 / 6 + 1 / 10 + 0) / 5)
    assert 0 <= found["mrr_ci95"][0] < found["mrr"] < found["mrr_ci95"][1] <= 1
    assert (found["paired"], found["median_ms"] > 0) == (None, True)


def test_without_a_question_that_names_a_document_there_is_nothing_to_count(library):
    assert find(library, asked_for(None, None), ALONE) == {}
    assert find(library, [], ALONE) == {}


def test_questions_whose_document_is_not_in_the_library_say_nothing_about_the_search(library):
    assert find(library, asked_for("d0", "elsewhere"), ALONE)["question"]["n"] == 1
    assert find(library, asked_for("elsewhere"), ALONE) == {}


def test_another_query_is_compared_with_the_question_alone(library):
    ways = {**ALONE, "better": lambda _: "zebra", "worse": lambda _: "giraffe"}
    found = find(library, asked_for(*["x"] * 5, text="heart zebra zebra"), ways)
    assert found["better"]["paired"]["delta"] == pytest.approx(1 - found["question"]["mrr"])
    assert found["worse"]["paired"]["delta"] == -found["question"]["mrr"]
    assert found["worse"]["mrr"] == 0


def test_beside_a_fused_search_stands_the_one_by_words_alone(library):
    """The embedder, which only pretends, thinks of the zebra whatever it is asked."""
    fused = FusedIndex(library.index.path, "an/embedder")
    fused.nearest = lambda query, k: library.index.search("zebra", k)
    both = replace(library, index=fused)
    found = find(both, asked_for(*["x"] * 5, text="giraffe"), queries(both, {}))
    assert (found["question"]["mrr"], found[WORDS_ALONE]["mrr"]) == (1, 0)
    assert found[WORDS_ALONE]["paired"]["delta"] == -1


def test_a_query_is_the_question_its_synonyms_and_the_models_thoughts():
    thoughts = {"base": {"q0": "a thought"}, "tuned": {"q0": "another thought"}}
    plain = SimpleNamespace(index=None, synonyms=None)
    wide = SimpleNamespace(index=None, synonyms=object(), widened=lambda question: f"{question} cardiac")
    made = {name: query(choice_question(0, "heart")) for name, query in queries(wide, thoughts).items()}
    assert made == {
        "question": "heart",
        "question and synonyms": "heart cardiac",
        "base model's thought": "a thought",
        "question and base model's thought": "heart a thought",
        "tuned model's thought": "another thought",
        "question and tuned model's thought": "heart another thought",
    }
    assert queries(plain, thoughts).keys() == made.keys() - {"question and synonyms"}


def test_the_options_and_the_context_are_in_no_query():
    thoughts = {"tuned": {"q0": "a thought"}}
    library = SimpleNamespace(index=None, synonyms=object(), widened=str.upper)
    one, other = choice_question(0, "heart"), choice_question(0, "heart", {"A": "x", "C": "y"}, "C", context="Context.")
    for query in queries(library, thoughts).values():
        assert query(one) == query(other)


# ------------------------------------------------------------------------------------------------------------ remarks


def figures(mrr, interval=None, n=20):
    hits = {k: {"share": share} for k, share in (("1", 0.25), ("10", 0.75))}
    paired = interval and {"delta": sum(interval) / 2, "delta_ci95": list(interval)}
    return {"n": n, "hits": hits, "mrr": mrr, "paired": paired}


def test_the_remark_names_only_queries_that_are_shown_to_differ():
    found = {"question": figures(0.4), "up": figures(0.6, (0.1, 0.3)), "down": figures(0.2, (-0.3, -0.1)),
             "same": figures(0.5, (-0.1, 0.3))}  # fmt: skip
    remark = on_finding(found)
    assert "first for 25% of 20 questions and among the first ten for 75%." in remark
    assert "By *up* the mean reciprocal rank is higher, 0.60 instead of 0.40." in remark
    assert "By *down* the mean reciprocal rank is lower, 0.20 instead of 0.40." in remark
    assert "same" not in remark
    assert on_finding({key: found[key] for key in ("question", "same")}).endswith(
        "No other query is shown to find more or less."
    )


def test_the_remark_claims_nothing_where_there_is_nothing_to_claim():
    assert "nothing to count" in on_finding({})
    assert "query" not in on_finding({"question": figures(0.4)})
    few = {"question": figures(0.4, n=4), "up": figures(0.6, (0.1, 0.3), n=4)}
    assert "reciprocal" not in on_finding(few)
