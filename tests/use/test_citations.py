"""What a reply cites, and the list under it."""

import pytest

from helpers.knowledge.documents import Passage
from helpers.use.citations import source_lines, unknown_citations

THREE = [
    Passage("The heart beats.", "Heart > Beat", "m1", "CC BY 4.0", address="https://there/m1"),
    Passage("The liver.", "Liver", "m2", ""),
    Passage("The spleen.", "", "m3", "CC0"),
]


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        ("It beats [1], and it is brown [2][3].", []),
        ("As in [7].", [7]),
        ("As in [1, 9].", [9]),
        ("As in [ 9 ] and [4;8].", [4, 8, 9]),
        ("As in [0], [12,5] and [5].", [0, 5, 12]),
        ("As in [1-3], [2–3] and [ 1 — 2 ].", []),
        ("As in [2-5], or [1, 3–4; 9].", [4, 5, 9]),
        ("As in [5-4] and [6 and 7], & [2&8].", [4, 5, 6, 7, 8]),
        ("As in [^1], [^4], [citation:2][citation:5], [Source 6], [passages 1, 7], 【8】.", [4, 5, 6, 7, 8]),
        ("In [2019], [2019-2021] and [a], of [1.5], [3 mg] and 7.", []),
        ("First (1) rest, (4) ice and (9-11) walks.", []),
        ("", []),
    ],
)
def test_citations_that_no_passage_has(answer, unknown):
    assert unknown_citations(f"Thought.</think>{answer}", THREE) == unknown


def test_a_thought_may_cite_anything():
    assert unknown_citations("Is it [7]?</think>No, [1].", THREE) == []
    assert unknown_citations("Is it [7]? It never ends", THREE) == []
    assert unknown_citations("Is it [7]?</think>Yes, [7].", []) == [7]


def test_a_source_line_has_number_title_source_licence_and_link():
    assert source_lines(THREE, "Thought.</think>[1].") == [
        "[1] Heart > Beat (m1, CC BY 4.0, https://there/m1)",
        "[2] Liver (m2, licence not stated)",
        "[3] untitled (m3, CC0)",
    ]


def test_a_citation_that_is_in_none_is_said_after_the_sources():
    lines = source_lines(THREE, "Thought.</think>[4], [1, 9].")
    assert lines[3:] == ["[4], [9]: cited in the answer, but no passage has this number"]
    assert source_lines(THREE, "A.</think>[1-20]")[3].endswith(
        "[12], [13] and 7 more: cited in the answer, but no passage has this number"
    )
    assert source_lines([], "A.</think>B.") == ["no passage was found for this question"]
