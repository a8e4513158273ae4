"""Reading, filtering, splitting and reporting: every wrong input, every rule's book-keeping, and the real rows."""

import csv
import gzip
import json
import random
from itertools import combinations

import pyarrow as pa
import pytest
from conftest import contents, fails
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from helpers import PROJECT_ROOT, InputError
from helpers.config import Config
from helpers.dataset_prep import prepare as dataset_prep
from helpers.dataset_prep.overlap import overlap
from helpers.dataset_prep.prepare import drop_exact, drop_near, fit, keep_out, prepare, split, unwrap, validate
from helpers.dataset_prep.similarity import normalise, own_shingles, runs, shared_shingles, shingles
from helpers.files import read_json, read_jsonl, write_jsonl
from helpers.models.loading import load_tokenizer
from helpers.questions.multiple_choice import ChoiceQuestion, baseline_questions
from helpers.run_dir.folder import Run, open_run
from helpers.sources.rows import COLUMNS, read_rows

SHARED = PROJECT_ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows in ../shared/data are not here")
SPECIAL = frozenset({"<think>", "</think>", "<|im_end|>"})
WORDS = ["fever", "cough", "rash", "chest", "pain", "child", "acute", "renal", "hepatic", "dose", "which", "first"]


@pytest.fixture
def words_as_tokens(monkeypatch):
    """A stand-in for encode_example that counts words, so that these tests need no model."""

    def encode(tokenizer, row, max_length, style="native"):
        if any(text in row["Complex_CoT"] + row["Response"] for text in SPECIAL):
            return None
        prompt, completion = len(row["Question"].split()), len((row["Complex_CoT"] + " " + row["Response"]).split())
        return {"input_ids": [1] * (prompt + completion), "labels": [-100] * prompt + [1] * completion}

    monkeypatch.setattr(dataset_prep, "encode_example", encode)
    monkeypatch.setattr(dataset_prep, "special_strings", lambda tokenizer: SPECIAL)
    monkeypatch.setattr(dataset_prep, "encode_prompt", lambda *_: [])


def row(question, line=1, thinking="Think it through.", answer="An answer."):
    return {"Question": question, "Complex_CoT": thinking, "Response": answer, "line": line}


def numbered(questions):
    return [row(question, line, answer=f"Answer {line}.") for line, question in enumerate(questions, 1)]


def distinct(count, seed=0):
    """`count` questions of 12 made-up words each, no two of which share three in a row."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(10**6)}" for _ in range(12)) + "?" for _ in range(count)]


def jaccard(one, other):
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def data_settings(source="sample", **changes):
    changes = {"sample_size": None, **changes}
    return Config.resolve("laptop", {"data.source": str(source), **{f"data.{k}": v for k, v in changes.items()}}).data


def make_run(path, source, **overrides):
    path.mkdir(exist_ok=True)
    (path / "run.yaml").write_text("created: now\n", encoding="utf-8")
    whole = {"data.sample_size": None, "data.validation_fraction": 0.1, "data.test_fraction": 0.1}
    return Run(path, Config.resolve("laptop", {"data.source": str(source), **whole, **overrides}))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def assert_nothing_lost(rows_in, kept, dropped):
    lines = sorted(r["line"] for r in kept) + sorted(line for found in dropped.values() for line in found)
    assert sorted(lines) == sorted(r["line"] for r in rows_in)


# ---------------------------------------------------------------------------------------------------------- reading


def test_the_packaged_sample_reads_and_keeps_its_specialties():
    rows, provenance = read_rows(data_settings(), seed=1)
    assert len(rows) == provenance["rows"] >= 60
    assert len({r["specialty"] for r in rows}) >= 12
    assert provenance["source"] == "sample"
    assert provenance["revision"] is None


GOOD = json.dumps({"Question": "q", "Complex_CoT": "c", "Response": "r"})
TRICKY = [
    {
        "Question": "What\u2028is this?\x85",
        "Complex_CoT": "Line one\r\nline \"two\", and 'three'",
        "Response": "naïve, 37 °C",
    },
    {"Question": "שאלה, سؤال 🩺", "Complex_CoT": "x" * 200_000, "Response": " spaces stay \n"},
]


def write_as(kind, folder):
    path = folder / f"rows.{kind.partition(' ')[0]}"
    if kind in ("jsonl", "json lines"):
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in TRICKY), encoding="utf-8", newline="")
    elif kind == "jsonl with mark and windows line ends":
        text = "\r\n".join(json.dumps(r, ensure_ascii=False) for r in TRICKY) + "\r\n\r\n"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    elif kind == "json list":
        path.write_text("\ufeff" + json.dumps(TRICKY, indent=1), encoding="utf-8")
    elif kind == "csv with mark":
        with open(path, "w", encoding="utf-8-sig", newline="") as handle:
            writer = csv.DictWriter(handle, ["extra", *COLUMNS])
            writer.writeheader()
            writer.writerows({"extra": "1", **r} for r in TRICKY)
    else:
        parquet.write_table(pa.Table.from_pylist([{"extra": 1, **r} for r in TRICKY]), path)
    return path


@pytest.mark.parametrize(
    "kind",
    ["jsonl", "jsonl with mark and windows line ends", "json lines", "json list", "csv with mark", "parquet"],
)
def test_every_format_gives_the_same_text_and_fingerprint(tmp_path, kind):
    rows, provenance = read_rows(data_settings(write_as(kind, tmp_path)), seed=1)
    assert [{name: r[name] for name in COLUMNS} for r in rows] == TRICKY
    expected = read_rows(data_settings(write_as("jsonl", tmp_path)), seed=1)[1]["fingerprint"]
    assert provenance["fingerprint"] == expected


def test_a_list_has_a_bound_that_lines_have_not(tmp_path, monkeypatch):
    path, rows = tmp_path / "a.json", [json.loads(GOOD)] * 3
    path.write_text(json.dumps(rows))
    monkeypatch.setattr("helpers.sources.tables.MAX_LIST", path.stat().st_size)
    assert len(read_rows(data_settings(path), seed=1)[0]) == 3
    path.write_text(json.dumps(rows) + "\n")
    with pytest.raises(InputError, match=r"a\.json is one list of more than 0 MiB: write one object a line"):
        read_rows(data_settings(path), seed=1)
    path.write_text(f"{GOOD}\n" * 4)
    assert len(read_rows(data_settings(path), seed=1)[0]) == 4


CELLS = [{"Question": "q, q", "Complex_CoT": "c", "Response": "r"}, dict.fromkeys(COLUMNS, "x")]
OTHER_CSV = {
    "semicolons, as Excel writes them in Germany": "\ufeffQuestion;Complex_CoT;Response\r\nq, q;c;r\r\nx;x;x\r\n",
    "tabs": 'Question\tComplex_CoT\tResponse\n"q, q"\tc\tr\nx\tx\tx\n',
    "spaces after the separator": 'Question, Complex_CoT, Response\n"q, q", c, "r"\nx, x, x\n',
    "spaces before it": 'Question ,Complex_CoT ,Response \n"q, q",c,r\nx,x,x\n',
    "empty last columns": 'Question,Complex_CoT,Response,,\n"q, q",c,r,,\nx,x,x,,\n',
}


@pytest.mark.parametrize("name", OTHER_CSV)
def test_csv_of_another_dialect(tmp_path, name):
    (tmp_path / "a.csv").write_bytes(OTHER_CSV[name].encode())
    rows, _ = read_rows(data_settings(tmp_path / "a.csv"), seed=1)
    assert [{column: r[column] for column in COLUMNS} for r in rows] == CELLS


WRONG_FILES = {
    "empty": ("a.jsonl", b"", "a.jsonl holds no rows"),
    "empty list": ("a.json", b"[]", "holds no rows"),
    "header alone": ("a.csv", b"Question,Complex_CoT,Response\n", "holds no rows"),
    "missing column": (
        "a.jsonl",
        b'{"Question": "q", "Response": "r"}',
        "no column Complex_CoT; its columns are: Question",
    ),
    "no header": ("a.csv", b"why?,because,so\nhow?,thus,yes\n", "columns are: why\\?, because, so; is its header line"),
    "more cells": ("a.csv", b"Question,Complex_CoT,Response\na,b,c\na,b,c,d\n", "line 3: 4 cells below 3 column names"),
    "open quote": ("a.csv", b'Question,Complex_CoT,Response\na,"b,c\n', "line 2: not CSV"),
    "utf-16": ("a.jsonl", GOOD.encode("utf-16"), "not UTF-8 \\(byte 0\\); it looks like UTF-16$"),
    "gzip": ("a.csv", gzip.compress(b"Question,Complex_CoT,Response\n"), "it looks like gzip$"),
    "not utf-8": ("a.jsonl", GOOD.encode() + b"\n\xe9\n", f"not UTF-8 \\(byte {len(GOOD) + 1}\\)"),
    "bad line": ("a.jsonl", f"{GOOD}\n\n{GOOD}\n{{oops\n".encode(), "a.jsonl line 4: not JSON"),
    "cut line": ("a.json", f"{GOOD}\n{GOOD[:-4]}".encode(), "a.json line 2: not JSON"),
    "bad list": ("a.json", f"[{GOOD},\n{GOOD},\n,]".encode(), "a.json line 3: not JSON"),
    "more after a list": ("a.json", f"[{GOOD},\n{GOOD}]\n\n{GOOD}".encode(), "a.json line 4: not JSON \\(Extra data"),
    "not an object": ("a.jsonl", f"{GOOD}\n3\n".encode(), "line 2: int instead of an object"),
    "endless nesting": ("a.json", b"[" * 200_000, "row 1: not JSON"),
    "unknown ending": ("a.xlsx", b"PK", "a.xlsx has the unknown ending '.xlsx'; valid: .json, .jsonl, .csv, .parquet"),
    "repeated key": (
        "a.jsonl",
        f'{GOOD}\n{{"Question": "a", "Question": "b"}}'.encode(),
        "line 2: not JSON .the key 'Question' stands twice in one object",
    ),
    "repeated key in a list": (
        "a.json",
        b'[{"Question": "a", "options": {"A": "x", "A": "y"}}]',
        "row 1: not JSON .the key 'A' stands twice",
    ),
    "repeated column": (
        "a.csv",
        b"Question,Complex_CoT,Response,Question\na,b,c,\n",
        "has two columns named 'Question': rename or remove one",
    ),
    "repeated column but for a space": ("a.csv", b"Question, Question\na,b\n", "two columns named 'Question'"),
    "columns": (
        "a.json",
        b'{"Question": ["q"], "Complex_CoT": ["c"], "Response": ["r"]}',
        "a.json is one object, not rows: write a list of objects, or one a line \\(pandas: to_json",
    ),
    "columns over several lines": ("a.json", b'{\n "Question": [\n  "q"\n ]\n}', "is one object, not rows"),
    "more cells by semicolons": (
        "a.csv",
        b"Question;Complex_CoT;Response\na;b;c;d\n",
        "line 2: 4 cells below 3 column names, separated by semicolons",
    ),
    "old macintosh": ("a.csv", b"Question,Complex_CoT,Response\ra,b,c\r", "line 1: not CSV"),
    "not parquet": ("a.parquet", b"Question,Complex_CoT", "a.parquet is not a parquet table"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_gives_one_clear_line(tmp_path, name):
    filename, content, message = WRONG_FILES[name]
    (tmp_path / filename).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_rows(data_settings(tmp_path / filename), seed=1)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_that_is_absent_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent.jsonl: No such file"):
        read_rows(data_settings(tmp_path / "absent.jsonl"), seed=1)
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        read_rows(data_settings(tmp_path), seed=1)


def test_a_sample_is_seeded_and_does_not_hang_on_the_order(tmp_path):
    lines = [{**r, "Question": f"{r['Question']} {k}"} for k in range(30) for r in TRICKY[:1]]
    draws = {}
    for name, rows in (("a", lines), ("b", lines[::-1])):
        path = write_rows(tmp_path / f"{name}.jsonl", rows)
        for seed in (1, 2):
            drawn, provenance = read_rows(data_settings(path, sample_size=10), seed=seed)
            assert provenance["rows"] == 30
            assert [r["line"] for r in drawn] == sorted(r["line"] for r in drawn)
            draws[name, seed] = {r["Question"] for r in drawn}
    assert len(draws["a", 1]) == 10
    assert draws["a", 1] == draws["b", 1]
    assert draws["a", 1] != draws["a", 2]
    assert len(read_rows(data_settings(path, sample_size=99), seed=1)[0]) == 30


@pytest.mark.parametrize(
    "names",
    [
        (
            "question",
            "reasoning (reasoning_content)",
            "response (content)",
        ),  # FreedomIntelligence/Medical-R1-Distill-Data
        ("QUESTION", " Complex_CoT", "response"),
        ("question", "reasoning", "answer"),
    ],
)
def test_the_same_columns_under_other_names(tmp_path, names):
    path = write_rows(tmp_path / "rows.jsonl", [dict(zip(names, row.values(), strict=True)) for row in TRICKY])
    rows, provenance = read_rows(data_settings(path), seed=1)
    assert [{name: r[name] for name in COLUMNS} for r in rows] == TRICKY
    assert provenance["columns"] == dict(zip(COLUMNS, names, strict=True))
    expected = read_rows(data_settings(write_as("jsonl", tmp_path)), seed=1)[1]["fingerprint"]
    assert provenance["fingerprint"] == expected


def test_a_columns_own_name_comes_before_an_alias(tmp_path):
    more = {"question": "no", "reasoning": "no", "response (content)": "no", "answer": "no"}
    path = write_rows(tmp_path / "rows.jsonl", [{**more, **row, **more} for row in TRICKY])
    rows, provenance = read_rows(data_settings(path), seed=1)
    assert [{name: r[name] for name in COLUMNS} for r in rows] == TRICKY
    assert provenance["columns"] == {name: name for name in COLUMNS}


def test_a_configuration_is_for_the_hub_alone(tmp_path):
    for source in ("sample", write_as("jsonl", tmp_path)):
        with pytest.raises(InputError, match=r"data.config = 'zh' is for data sets of the hub, and data.source is"):
            read_rows(data_settings(source, config="zh"), seed=1)


# ----------------------------------------------------------------------------------------- validating, keeping out

FAULTS = {
    "question is not text": {"Question": None},
    "reasoning is not text": {"Complex_CoT": ["a"]},
    "answer is not text": {"Response": 3.5},
    "empty question": {"Question": " \n\u2003"},
    "empty reasoning": {"Complex_CoT": ""},
    "empty answer": {"Response": "\t"},
    "invalid characters in the question": {"Question": "a\ud83d b"},
    "invalid characters in the reasoning": {"Complex_CoT": "lost \ufffd text"},
    "invalid characters in the answer": {"Response": "nul \x00"},
    "special token in the reasoning: </think>": {"Complex_CoT": "so </think> then"},
    "special token in the answer: <|im_end|>": {"Response": "done<|im_end|>"},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_each_fault_is_counted_under_its_reason(reason):
    rows = [row("Fine?", 1), {**row("Faulty?", 7), **FAULTS[reason]}, row("Fine too?", 9)]
    kept, dropped = validate(rows, SPECIAL)
    assert [r["line"] for r in kept] == [1, 9]
    assert dropped == {reason: [7]}


def test_odd_but_right_rows_stay_as_they_are():
    rows = [
        row("What does <|im_end|> or </think> mean?", 1),
        row("؟ سؤال", 2, thinking=" tab\tand\nnewline\r\n ", answer="🩺 \u2028 \u200d é"),
        row("a.b", 3, thinking="a < b > c, think", answer="[UNK] <thin"),
    ]
    kept, dropped = validate(rows, SPECIAL)
    assert kept == rows
    assert dropped == {}
    assert validate(rows, frozenset())[0] == rows


def test_a_special_string_is_no_pattern():
    kept, dropped = validate([row("q", 1, answer="aXb"), row("q", 2, answer="a.b")], frozenset({"a.b"}))
    assert [r["line"] for r in kept] == [1]
    assert dropped == {"special token in the answer: a.b": [2]}


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("<think>\nFirst,\nthen.\n</think>\n\n", "First,\nthen."),
        (" <think>so</think>", "so"),
        ("<think></think>", ""),
        ("<think>a</think>b", None),
        ("a</think>", None),
        ("<think>a", None),
        ("<think>a</think><think>b</think>", None),
        ("<think><think>a</think></think>", None),
        ("<think>", None),
        ("no tags ", None),
        (None, None),
    ],
)
def test_one_pair_of_tags_around_a_whole_reasoning_is_taken_off(text, bare):
    rows = [row("q", 1, thinking=text)]
    found, count = unwrap(rows)
    assert count == (bare is not None)
    assert found[0] == {**rows[0], "Complex_CoT": text if bare is None else bare}


def test_baseline_questions_are_kept_out_also_reworded_a_little():
    asked = baseline_questions()[0]
    words = asked.split()
    words[3] = "seamstress"
    rows = numbered([asked, *distinct(3), " ".join(words), "Hello! " + asked.upper()])
    kept, dropped = keep_out(rows, baseline_questions(), 0.7)
    assert [r["line"] for r in kept] == [2, 3, 4]
    assert dropped == {"like a question kept for the baseline": [1, 5, 6]}
    assert keep_out(rows, [], 0.7) == (rows, {})


# ------------------------------------------------------------------------------------------------------ duplicates


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is it?", "  what IS\n it "),
        ("patient’s pH", "patient's ph"),
        ("ﬁrst 37 ℃", "first 37 °C"),
        ("zero\u200bwidth", "zerowidth"),
        ("pH<7.35", "pH < 7.35"),
        ("роst-mortem саsе", "post-mortem case"),  # Cyrillic letters in the first
        ("急性肾炎？", "急性肾炎"),
    ],
)
def test_texts_that_normalise_to_the_same(one, other):
    assert normalise(one) == normalise(other)
    assert len(drop_exact(numbered([one, other]))[0]) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("pH < 7.35", "pH > 7.35"), ("HBsAg+", "HBsAg"), ("?!", "..."), ("🩺", "💊"), ("急性", "慢性")]
)
def test_texts_that_stay_apart(one, other):
    assert normalise(one) != normalise(other)


def test_exact_duplicates_keep_the_first_whatever_the_answer():
    questions = distinct(3)
    rows = numbered([questions[0], questions[1], questions[0].upper(), questions[2], f" {questions[1]} !"])
    kept, dropped = drop_exact(rows)
    assert [r["line"] for r in kept] == [1, 2, 4]
    assert dropped == {"same question as an earlier row": [3, 5]}


def test_one_other_word_in_a_short_question_makes_another_question():
    kept, _ = drop_near(
        numbered(["What is the drug of choice for malaria?", "What is the drug of choice for typhoid?"]), 0.7
    )
    assert len(kept) == 2


def test_of_a_chain_only_the_middle_goes():
    words = [f"word{k}" for k in range(36)]
    chain = [" ".join(words), " ".join(words[5:]), " ".join(words[10:])]
    assert min(jaccard(*chain[:2]), jaccard(*chain[1:])) >= 0.7 > jaccard(chain[0], chain[2])
    assert [r["line"] for r in drop_near(numbered(chain), 0.7)[0]] == [1, 3]


questions_strategy = st.lists(
    st.lists(st.sampled_from(WORDS[:6]), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=40
)
few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@few
@given(st.lists(st.tuples(*[st.text(max_size=12) | st.none()] * 3), min_size=1, max_size=12))
def test_no_rule_loses_a_row_or_changes_one(cells):
    rows = [row(q, line, c, a) for line, (q, c, a) in enumerate(cells, 1)]
    kept, dropped = validate(rows, SPECIAL)
    assert_nothing_lost(rows, kept, dropped)
    for rule in (drop_exact, lambda r: drop_near(r, 0.7), lambda r: keep_out(r, baseline_questions(), 0.3)):
        before = kept
        kept, dropped = rule(before)
        assert_nothing_lost(before, kept, dropped)
        assert all(r in rows for r in kept)
    json.dumps(kept, ensure_ascii=False).encode()  # what validate lets through can be written


# ----------------------------------------------------------------------------------------------------------- split


def sides(rows):
    return {name: [r for r in rows if r["split"] == name] for name in ("train", "validation", "test")}


def test_a_split_has_the_sizes_asked_for():
    parts = sides(split(numbered(distinct(200)), 0.1, 0.05, seed=1))
    assert {name: len(part) for name, part in parts.items()} == {"train": 170, "validation": 20, "test": 10}


def test_no_test_rows_when_none_are_asked_for_and_other_rows_with_another_seed():
    rows = numbered(distinct(50))
    one, other = (sides(split(rows, 0.2, 0.0, seed=seed)) for seed in (1, 2))
    assert one["test"] == []
    assert {r["line"] for r in one["validation"]} != {r["line"] for r in other["validation"]}


@few
@given(questions_strategy, st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_split_parts_no_like_questions_and_does_not_hang_on_the_order(questions, seed, rng):
    rows = numbered(questions)
    shuffled = rng.sample(rows, len(rows))
    try:
        found = split(rows, 0.2, 0.2, seed)
    except InputError:
        with pytest.raises(InputError, match="too few to train and to validate"):
            split(shuffled, 0.2, 0.2, seed)
        return
    assert split(shuffled, 0.2, 0.2, seed) == found
    assert sorted((r["line"], r["Question"]) for r in found) == [(r["line"], r["Question"]) for r in rows]
    parts = sides(found)
    assert parts["train"]
    assert parts["validation"]
    for a, b in combinations(found, 2):
        if jaccard(a["Question"], b["Question"]) >= 0.3:
            assert a["split"] == b["split"]


@few
@given(st.lists(st.integers(0, 99), min_size=3, max_size=25, unique=True), st.randoms(use_true_random=False))
def test_what_plain_three_word_runs_call_near_is_near_enough_for_one_side(numbers, rng):
    """A reader may count 3-grams without the blank words at the ends; 0.7 by that count must not be parted either."""
    words = [f"word{k}" for k in numbers]
    texts = [words, ["first", *words], [*words, "last"], ["first", *words, "last"], words[1:], words[:-1]]
    changed = rng.randrange(len(words))
    texts += [[*words[:changed], "other", *words[changed:]], [*words[:changed], "other", *words[changed + 1 :]]]
    for one, other in combinations([" ".join(text) for text in texts], 2):
        a, b = runs(one, 3), runs(other, 3)
        if a and len(a & b) >= 0.7 * len(a | b):
            assert jaccard(one, other) >= 0.3


def test_like_rows_fill_validation_as_one_group_when_no_single_row_can():
    questions = [f"{q} {end}" for q in distinct(4) for end in ("now", "today")]
    parts = sides(split(numbered(questions), 0.1, 0.0, seed=1))
    assert len(parts["validation"]) == 2
    assert len(parts["train"]) == 6


@pytest.mark.parametrize("questions", [["One?"], ["What is the dose now?", "What is the dose?"], []])
def test_too_few_rows_to_split(questions):
    with pytest.raises(InputError, match="too few to train and to validate"):
        split(numbered(questions), 0.1, 0.1, seed=1)


def test_a_boilerplate_that_too_few_share_to_be_discounted_is_handled_whole():
    boilerplate = " ".join(distinct(3, seed=9))
    alike = [f"{boilerplate} {' '.join(q.split()[:2])}" for q in distinct(900, seed=2)]
    other = [f"{boilerplate} {q} {p}" for q, p in zip(distinct(900, seed=3), distinct(900, seed=4), strict=True)]
    rows = numbered([*alike, *distinct(300, seed=6), *other])
    kept, dropped = drop_near(rows, 0.7)
    assert len(dropped["near-duplicate of an earlier row"]) == 899
    parts = sides(split(kept, 0.1, 0.1, seed=1))
    assert {name for name, part in parts.items() if any(boilerplate in r["Question"] for r in part)} == {"train"}
    assert len(parts["validation"]) == round(0.1 * len(kept))


SYMPTOMS = [f"{one}{two}" for one in ("hyper", "hypo", "tachy", "brady", "poly") for two in ("pnoea", "cardia", "uria",
            "thermia", "tension")]  # fmt: skip


def vignettes(count=60, instruction=0):
    """Different cases of 19 words, behind one instruction of so many."""
    rng = random.Random(1)
    before = " ".join(f"order{k}" for k in range(instruction))
    cases = (" ".join(rng.sample(SYMPTOMS, 12)) for _ in range(count))
    return [f"{before} A patient has {case}. What is the diagnosis?".strip() for case in cases]


def prepared(questions, similarity=0.3, near=0.7):
    """The sides' sizes after the rules that go by likeness."""
    shared = shared_shingles(questions)
    rows, _ = keep_out(numbered(questions), baseline_questions(), similarity, shared)
    rows, _ = drop_near(drop_exact(rows)[0], near, shared)
    return [len(part) for part in sides(split(rows, 0.1, 0.1, 1, similarity, shared)).values()]


@pytest.mark.parametrize(("count", "words"), [(60, 0), (10, 27), (400, 27)])
def test_rows_that_share_an_instruction_train(count, words):
    assert prepared(vignettes(count, words)) == [count - 2 * round(0.1 * count), *[round(0.1 * count)] * 2]


@pytest.mark.parametrize("instructions", [2, 12])
def test_rows_with_one_of_several_instructions_train(instructions):
    """Half of the rows with one preamble, half with another, and so on: each text is in too many rows to tie them."""
    before = [" ".join(f"order{k}{word}" for word in "abcdefghijkl") for k in range(instructions)]
    questions = [f"{before[k % instructions]}: {question}" for k, question in enumerate(vignettes(200))]
    assert prepared(questions) == [160, 20, 20]
    if instructions == 2:
        assert prepared(questions[:20]) == [16, 2, 2]


def test_a_template_with_slots_trains_and_so_do_chinese_rows():
    rng = random.Random(2)
    slots = [rng.sample(SYMPTOMS, 20) for _ in range(3)]
    form = "A patient of {} presents with {} and {}; there is a history of {}. What is the most likely diagnosis?"
    rows = {form.format(rng.randint(20, 80), *map(rng.choice, slots)): None for _ in range(200)}
    assert prepared([*rows]) == [len(rows) - 2 * round(0.1 * len(rows)), *[round(0.1 * len(rows))] * 2]
    signs = [chr(0x4E00 + k) for k in range(60)]
    chinese = ["\u8bf7\u9605\u8bfb\u75c5\u4f8b\uff1a" + "".join(rng.sample(signs, 25)) for _ in range(200)]
    assert prepared(chinese) == [160, 20, 20]


@pytest.mark.parametrize("instruction", [0, 27])
def test_near_duplicates_are_found_behind_an_instruction(instruction):
    questions = vignettes(60, instruction)
    copies = [question.replace("What is the diagnosis?", "What is the diagnosis, then?") for question in questions[:4]]
    rows = numbered([*questions, *copies])
    shared = shared_shingles([r["Question"] for r in rows])
    assert drop_near(rows, 0.7, shared)[1] == {"near-duplicate of an earlier row": [61, 62, 63, 64]}
    parts = sides(split(rows, 0.1, 0.1, 1, 0.3, shared))
    for one, other in zip(range(1, 5), range(61, 65), strict=True):
        assert [name for name, part in parts.items() if {one, other} <= {r["line"] for r in part}]


def test_a_baseline_question_is_kept_out_behind_an_instruction_too():
    instruction = " ".join(f"order{k}" for k in range(65))
    rows = numbered([f"{instruction} {question}" for question in [*distinct(59), baseline_questions()[0]]])
    shared = shared_shingles([r["Question"] for r in rows])
    assert keep_out(rows, baseline_questions(), 0.3, shared)[1] == {"like a question kept for the baseline": [60]}


def test_what_few_questions_share_counts_and_a_repeated_question_shares_nothing():
    question = distinct(1)[0]
    assert shared_shingles([question] * 200) == {}
    assert shared_shingles(distinct(5) + [f"{q} so it is" for q in distinct(4, seed=1)]) == {}
    assert shared_shingles([f"{q} so it is" for q in distinct(5)]) == {"so it is": 5, "it is ": 5, "is  ": 5}
    thousand = distinct(970) + [f"{q} so it is" for q in distinct(32, seed=1)]
    assert shared_shingles(thousand) == {"so it is": 32, "it is ": 32, "is  ": 32}
    assert shared_shingles(thousand[:-1]) == {}


def test_a_question_of_nothing_but_what_is_shared_is_compared_by_all_of_it():
    shared = shingles("What is the diagnosis?") | shingles("What is the treatment?")
    assert own_shingles("What is the diagnosis?", shared) == shingles("What is the diagnosis?")
    rows = numbered(["What is the diagnosis?", "What is the treatment?", "what is the DIAGNOSIS"])
    assert drop_near(rows, 0.7, shared)[1] == {"near-duplicate of an earlier row": [3]}


def test_rows_that_are_alike_only_without_what_is_shared_are_not_near_duplicates():
    opening = "What are the first and the second line treatments of "
    rows = numbered(["gout?", f"{opening}gout?"])
    shared = shingles(rows[1]["Question"]) - shingles(rows[0]["Question"])
    assert own_shingles(rows[1]["Question"], shared) < shingles(rows[0]["Question"])
    assert drop_near(rows, 0.3, shared)[1] == {}


@few
@given(questions_strategy, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]), st.sets(st.integers(0, 99), max_size=20))
def test_near_duplicates_are_the_brute_force_ones(questions, threshold, chosen):
    rows, kept = numbered(questions), []
    every = sorted(set().union(*map(shingles, questions)))
    shared = {every[k % len(every)] for k in chosen}

    def own(one, other):
        a, b = own_shingles(one, shared), own_shingles(other, shared)
        return len(a & b) / len(a | b)

    for candidate in rows:
        pairs = [(candidate["Question"], r["Question"]) for r in kept]
        if all(min(jaccard(*pair), own(*pair)) < threshold for pair in pairs):
            kept.append(candidate)
    found, dropped = drop_near(rows, threshold, shared)
    assert found == kept
    assert_nothing_lost(rows, found, dropped)


@needs_shared
def test_of_the_real_rows_one_pair_is_alike_with_what_they_share_left_out():
    questions = [r["Question"] for r in read_jsonl(SHARED / "medical_o1_en_187.jsonl")]
    shared = shared_shingles(questions)
    own = [own_shingles(question, shared) for question in questions]
    alike = sorted(len(a & b) / len(a | b) for a, b in combinations(own, 2))
    assert alike[-1] > 0.3 > 0.13 > alike[-2]


def test_the_message_of_one_group_says_what_parts_it():
    question = distinct(1)[0]
    few_words = numbered([f"{question} {end}" for end in ("now", "today", "here")])
    alike = jaccard(few_words[0]["Question"], few_words[1]["Question"])
    with pytest.raises(
        InputError, match=r"rows left: 3, too few .* these make one group; a higher data\.group_similarity"
    ):
        split(few_words, 0.1, 0.1, seed=1)
    assert sides(split(few_words, 0.1, 0.1, seed=1, group_similarity=alike + 0.01))["train"]


# ------------------------------------------------------------------------------------------------------------- fit


def test_rows_that_do_not_fit_are_left_out_whole(words_as_tokens):
    rows = [row("three word question", k, "thought " * k, "answer") for k in range(1, 11)]
    kept, dropped = fit(rows, None, max_length=9)
    assert [r["line"] for r in kept] == [1, 2, 3, 4, 5]
    assert dropped == {"longer than 9 tokens": [6, 7, 8, 9, 10]}
    assert [(r["prompt_tokens"], r["completion_tokens"]) for r in kept] == [(3, k + 1) for k in range(1, 6)]
    assert kept[4]["Complex_CoT"] == "thought " * 5


def test_no_row_fits(words_as_tokens):
    with pytest.raises(InputError, match=r"no row fits model.max_length = 4 tokens: the shortest has 6"):
        fit([row("a b c", k, "d " * k, "e") for k in (5, 2, 3)], None, max_length=4)


def test_a_special_token_that_validate_was_not_told_of(words_as_tokens):
    kept, dropped = fit([row("a", 1, "b </think>"), row("a", 2, "b")], None, max_length=99)
    assert [r["line"] for r in kept] == [2]
    assert dropped == {"special token, or a character that the vocabulary cannot spell": [1]}


# --------------------------------------------------------------------------------------------------------- overlap


def question(text, *options, name="q"):
    letters = dict(zip("ABCD", options or ("yes", "no"), strict=False))
    return ChoiceQuestion(id=name, question=text, options=letters, answer_idx="A")


def test_overlap_finds_a_copy_a_quoted_run_and_a_rewrite():
    copied, quoted, new = distinct(3, seed=8)
    long_text = " ".join([quoted.rstrip("?"), *distinct(1, seed=11)[0].rstrip("?").split()])
    vignette = (
        "A 15-year-old girl has two months of fatigue and headaches. Blood pressure is 185/95 mm Hg, renin is high."
    )
    rewritten = (
        "Fatigue with headache for two months in a girl of 15 whose pressure is 185/95 mm Hg and renin is high: why?"
    )
    rows = numbered([*distinct(30), copied, "Something else entirely?", rewritten])
    rows[31]["Complex_CoT"] = f"Let me see. {' '.join(long_text.split()[:18])} and so on."
    asked = [question(copied.upper(), name="copied"), question(long_text, name="quoted")]
    asked += [question(vignette, "Renal artery stenosis", "Asthma", name="rewritten"), question("Short?", name="short")]
    report = overlap(rows, {"task": asked, "other": [question(new)]})
    found = {pair["id"]: pair for pair in report["task"]["top"]}
    assert report["task"]["questions"] == 4
    assert report["task"]["exact"] == 1
    assert found["copied"]["reasons"] == ["exact", "cosine"]
    counts = {"words": 13, "questions": 2, "any": 1, "max": 0.5, "close": 1, "close_at": 0.1}
    assert report["task"]["ngram"] == counts
    assert found["quoted"]["ngram"] == 0.5  # 6 of the 12 runs of 13 words
    assert found["copied"]["ngram"] is None  # 12 words hold no run of 13
    assert (found["quoted"]["line"], found["quoted"]["reasons"]) == (32, ["ngram"])
    assert (found["rewritten"]["line"], found["rewritten"]["reasons"]) == (33, ["cosine"])
    assert found["rewritten"]["cosine"] > 0.2 > found["short"]["cosine"]
    assert report["task"]["flagged"] == ["copied", "quoted", "rewritten"]
    assert [pair["id"] for pair in report["task"]["top"]] == ["copied", "quoted", "rewritten", "short"]
    assert report["other"]["cosine"]["max"] < 0.05
    assert (report["other"]["exact"], report["other"]["flagged"]) == (0, [])
    json.dumps(report, allow_nan=False)


def test_overlap_is_the_same_in_blocks(monkeypatch):
    rows = numbered(distinct(20))
    tasks = {name: [question(r["Question"], name=str(k)) for k, r in enumerate(rows[:9])] for name in ("a", "b")}
    whole = overlap(rows, tasks)
    monkeypatch.setattr("helpers.dataset_prep.overlap.BLOCK", 4)
    assert overlap(rows, tasks) == whole
    assert [pair["line"] for pair in whole["b"]["top"]] == [int(pair["id"]) + 1 for pair in whole["b"]["top"]]


def test_a_run_of_words_flags_by_its_share_of_the_question_in_one_row():
    """Changed before and after, 16 words hold 4 of the 28 runs of a question of 40 words, and 14 hold 2."""
    words = [f"w{k}" for k in range(40)]
    copied, *stock = (f"before {' '.join(words[start:end])} after?" for start, end in ((10, 26), (4, 18), (22, 36)))
    found = [
        overlap(numbered([*distinct(9), *more]), {"task": [question(" ".join(words))]})["task"]
        for more in ([stock[0], copied, stock[1]], stock)
    ]
    assert [task["top"][0]["ngram"] for task in found] == [0.143, 0.071]
    assert [task["ngram"]["close"] for task in found] == [1, 0]
    assert found[0]["top"][0]["line"] == 11


def test_the_row_shown_is_the_one_that_gave_the_first_reason():
    """The copy's answer is long, so that by TF-IDF another row is nearer."""
    asked = distinct(1, seed=5)[0]
    rows = numbered([*distinct(5), f"{asked} Really?", asked])
    rows[-1]["Response"] = " ".join(distinct(40, seed=6))
    pair = overlap(rows, {"task": [question(asked)]})["task"]["top"][0]
    assert (pair["reasons"], pair["line"]) == (["exact", "cosine"], 7)
    assert overlap(rows[:-1], {"task": [question(asked)]})["task"]["top"][0]["line"] == 6


@pytest.mark.parametrize(("copies", "shown"), [(3, 10), (30, 30), (70, 50)])
def test_flagged_pairs_are_shown_first_and_the_report_stays_small(copies, shown):
    texts = distinct(100)
    asked = [question(text, name=str(k)) for k, text in enumerate(texts)]
    found = overlap(numbered([*texts[100 - copies :], *distinct(20, seed=3)]), {"task": asked})["task"]
    assert found["flagged"] == [str(k) for k in range(100 - copies, 100)]
    assert len(found["top"]) == shown
    assert [bool(pair["reasons"]) for pair in found["top"]] == [k < copies for k in range(shown)]


@needs_shared
def test_the_known_rewrites_of_benchmark_items_come_first():
    rows, _ = read_rows(data_settings(SHARED / "medical_o1_en_187.jsonl"), seed=1)
    tasks = {
        name: [ChoiceQuestion.model_validate(q) for q in read_jsonl(SHARED / f"{name}.jsonl")]
        for name in ("medqa_dev_4opt_600", "medmcqa_dev_600", "pubmedqa_pqal_train_500")
    }
    report = overlap(rows, tasks)
    medqa, medmcqa, pubmedqa = report.values()
    assert [pair["id"] for pair in medqa["top"][:2]] == ["medqa-dev-441", "medqa-dev-160"]
    assert {"medqa-dev-441", "medqa-dev-160"} <= {*medqa["flagged"]}
    assert medmcqa["top"][0]["row"].startswith("A 28-year-old female presents with recurrent abortions")
    rewritten = ("80688adc", "15417774")  # the abortions, a malignant pustule
    assert all(any(name.startswith(f"medmcqa-{k}") for name in medmcqa["flagged"]) for k in rewritten)
    assert [len(found["flagged"]) for found in report.values()] == [6, 7, 5]
    assert (medqa["exact"], medmcqa["exact"], pubmedqa["exact"]) == (0, 0, 0)
    assert max(medqa["ngram"]["max"], medmcqa["ngram"]["max"]) < 0.05


def test_every_question_is_flagged_where_all_of_them_were_trained_on():
    """The measure is what a question's other rows have in common with it, so a whole benchmark can be found."""
    cases = vignettes(80)
    ages = [f"{case} She is {20 + k} years old." for k, case in enumerate(cases)]
    tasks = {"task": [question(case, name=str(k)) for k, case in enumerate(cases)]}
    assert len(overlap(numbered(ages), tasks)["task"]["flagged"]) == 80
    assert overlap(numbered(vignettes(240)[80:]), tasks)["task"]["flagged"] == []


# --------------------------------------------------------------------------------------------------- all of it


def made_rows(count=60):
    rows = [{**r, "specialty": "renal" if r["line"] % 3 else "cardiac"} for r in numbered(distinct(count))]
    for extra in rows:
        del extra["line"]
    return rows


def test_prepare_accounts_for_every_row_and_writes_what_it_reports(tmp_path, words_as_tokens):
    rows = made_rows()
    rows += [{**rows[0], "Response": ""}, {**rows[1], "Complex_CoT": "a </think> b"}, dict(rows[2])]
    rows += [{**rows[3], "Question": f"{baseline_questions()[1]}"}, {**rows[4], "Complex_CoT": "long " * 2000}]
    rows[4]["Question"], rows[-1]["Question"] = distinct(2, seed=77)
    source = write_rows(tmp_path / "rows.jsonl", rows)
    run, lines = make_run(tmp_path / "run", source), []
    report = prepare(run, None, lines.append)
    steps = {step["rule"]: step for step in report["steps"]}
    before = 65
    for step in report["steps"]:
        assert step["rows_in"] == before
        assert step["rows_in"] == step["rows_out"] + sum(step["reasons"].values())
        before = step["rows_out"]
    assert steps["validate"]["reasons"] == {"empty answer": 1, "special token in the reasoning: </think>": 1}
    assert steps["validate"]["lines"] == {"empty answer": [61], "special token in the reasoning: </think>": [62]}
    assert steps["exact duplicates"]["reasons"] == {"same question as an earlier row": 1}
    assert steps["keep out"]["reasons"] == {"like a question kept for the baseline": 1}
    assert steps["fit"]["reasons"] == {"longer than 1024 tokens": 1}
    written = {name: read_jsonl(run / f"data/{name}.jsonl") for name in ("train", "validation", "test")}
    assert {name: len(part) for name, part in written.items()} == report["splits"]
    assert sum(report["splits"].values()) == before == 60
    originals = [{name: r[name] for name in COLUMNS} for r in rows]
    for part in written.values():
        for kept in part:
            assert {name: kept[name] for name in COLUMNS} == originals[kept["line"] - 1]
    assert read_json(run / "data/report.json") == report
    assert run.record["data"]["fingerprint"] == report["provenance"]["fingerprint"]
    assert sum(report["specialties"].values()) == 60
    histogram = dict(report["tokens"]["histogram"])
    assert len(histogram.pop("edges")) == 41
    assert {name: sum(counts) for name, counts in histogram.items()} == report["splits"]
    assert report["tokens"]["total"]["max"] <= 1024
    assert set(report["overlap"]) == {"sample"}
    assert [line.partition(":")[0] for line in lines] == [*steps, "overlap"]


def test_only_training_rows_flag_a_question(tmp_path, words_as_tokens):
    """Each question is a row's with its first word changed; only the one of a training row can have been learnt."""
    source, asked = write_rows(tmp_path / "rows.jsonl", made_rows()), tmp_path / "asked.jsonl"
    overrides = {"evaluation.questions": str(asked), "data.test_fraction": 0.1}
    run = make_run(tmp_path / "run", source, **overrides)
    parts = sides(split(read_rows(run.config.data, run.config.seed)[0], 0.1, 0.1, run.config.seed))
    twins = {name: f"Other {part[0]['Question'].split(' ', 1)[1]}" for name, part in parts.items()}
    write_rows(asked, [question(text, name=name).model_dump() for name, text in twins.items()])
    report = prepare(run, None)
    assert report["overlap"]["asked"]["flagged"] == ["train"]
    assert report["overlap"]["asked"]["top"][0]["line"] == parts["train"][0]["line"]
    lines = {r["line"] for r in read_jsonl(run / "data/train.jsonl")}
    assert {pair["line"] for pair in report["overlap"]["asked"]["top"]} <= lines


def test_a_row_that_was_left_out_can_be_looked_up_by_its_line(tmp_path, words_as_tokens):
    rows = made_rows() + [{"Question": q, "Complex_CoT": "a", "Response": ""} for q in distinct(500)]
    run = make_run(tmp_path / "run", write_rows(tmp_path / "rows.jsonl", rows))
    report = prepare(run, None)
    by_line = {row["line"]: row for row in read_rows(run.config.data, run.config.seed)[0]}
    left_out = [line for step in report["steps"] for lines in step["lines"].values() for line in lines]
    kept = [row["line"] for side in ("train", "validation", "test") for row in read_jsonl(run / f"data/{side}.jsonl")]
    assert sorted(left_out + kept) == sorted(by_line)
    [validate] = [step for step in report["steps"] if step["rule"] == "validate"]
    assert len(validate["lines"]["empty answer"]) == validate["reasons"]["empty answer"] == 500
    assert not any(by_line[line]["Response"] for line in validate["lines"]["empty answer"])


def test_prepare_says_how_many_rows_were_not_drawn(tmp_path, words_as_tokens):
    run = make_run(tmp_path / "run", write_rows(tmp_path / "rows.jsonl", made_rows()), **{"data.sample_size": 20})
    step = prepare(run, None)["steps"][0]
    assert step["reasons"] == {"not in a random sample of 20": 40}


def test_one_question_many_times_is_said_with_its_count(tmp_path, words_as_tokens):
    source = write_rows(tmp_path / "rows.jsonl", made_rows(1) * 200)
    with pytest.raises(InputError, match=r"rows left: 1, too few .*\(of 200 rows: 199 x same question as an earlier"):
        prepare(make_run(tmp_path / "run", source), None)


def test_prepare_remarks_on_what_it_took_off_and_what_rows_share(tmp_path, words_as_tokens):
    rows = [{**r, "Question": q} for r, q in zip(made_rows(), vignettes(60, 12), strict=True)]
    rows[0]["Complex_CoT"] = "<think>\nSo.\n</think>"
    run = make_run(tmp_path / "run", write_rows(tmp_path / "rows.jsonl", rows))
    report = prepare(run, None)
    assert report["splits"] == {"train": 48, "validation": 6, "test": 6}
    wrapped, shared = report["remarks"]
    assert wrapped == "The tags around the reasoning, <think> and </think>, were taken off 1 x."
    assert shared.startswith(
        "19 runs of three words stand in too many questions to make two of them alike: 'a patient has' (in 60), "
    )
    assert "So." in {r["Complex_CoT"] for name in report["splits"] for r in read_jsonl(run / f"data/{name}.jsonl")}


def test_prepare_remarks_on_a_split_that_is_far_from_what_was_asked(tmp_path, words_as_tokens):
    halves = [f"{one} of {other}" for one in distinct(2) for other in ("man", "woman", "boy", "girl")]
    rows = [{**r, "Question": q} for r, q in zip(made_rows(8), halves, strict=True)]
    run = make_run(tmp_path / "run", write_rows(tmp_path / "rows.jsonl", rows), **{"data.test_fraction": 0.2})
    assert prepare(run, None)["remarks"] == [
        "The split is not what was asked for: 4 of 8 rows for validation (1 asked), 0 of 8 rows for test (2 asked). "
        "Rows with like questions stay on one side; a higher data.group_similarity makes smaller groups of them."
    ]


def test_a_question_that_the_model_cannot_read_is_said_before_training(tmp_path, smollm_tokenizer):
    asked = [question("Fine?", name="a"), question("Odd?", "yes", "n\U00040000", name="b")]
    write_rows(tmp_path / "asked.jsonl", [each.model_dump() for each in asked])
    source = write_rows(tmp_path / "rows.jsonl", made_rows())
    overrides = {"evaluation.questions": str(tmp_path / "asked.jsonl")}
    with pytest.raises(InputError, match=r"asked, question b: the model's vocabulary cannot spell U\+40000"):
        prepare(make_run(tmp_path / "run", source, **overrides), smollm_tokenizer)


BREAKAGES = {
    "broken source": (lambda path: path.write_text("{oops", encoding="utf-8"), {}, "line 1: not JSON"),
    "nothing valid": (
        lambda path: write_rows(path, [{**TRICKY[0], "Response": ""}]),
        {},
        "no row is left after the rule 'validate': 1 x",
    ),
    "too few": (lambda path: write_rows(path, made_rows(1)), {}, "too few to train"),
    "all too long": (lambda path: None, {"model.max_length": 16}, "no row fits model.max_length = 16"),
    "no such questions": (lambda path: None, {"evaluation.questions": "absent.jsonl"}, "cannot read"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_an_error_leaves_the_finished_artefacts_as_they_were(tmp_path, words_as_tokens, name):
    source = write_rows(tmp_path / "rows.jsonl", made_rows())
    prepare(make_run(tmp_path / "run", source), None)
    before, record = contents(tmp_path / "run/data"), (tmp_path / "run/run.yaml").read_bytes()
    breakage, overrides, message = BREAKAGES[name]
    breakage(source)
    run = Run(tmp_path / "run", Config.resolve("laptop", {"data.source": str(source), **overrides}))
    with pytest.raises(InputError, match=message):
        prepare(run, None)
    assert contents(tmp_path / "run/data") == before
    assert (tmp_path / "run/run.yaml").read_bytes() == record
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["data", "run.yaml"]


def test_a_failed_write_leaves_the_finished_artefacts_as_they_were(tmp_path, words_as_tokens, monkeypatch):
    run = make_run(tmp_path / "run", write_rows(tmp_path / "rows.jsonl", made_rows()))
    prepare(run, None)
    before = contents(run / "data")
    write_rows(tmp_path / "rows.jsonl", made_rows(50))

    monkeypatch.setattr(dataset_prep, "write_json", fails(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        prepare(run, None)
    assert contents(run / "data") == before
    assert sorted(path.name for path in run.path.iterdir()) == ["data", "run.yaml"]


def test_too_few_rows_of_one_side_fit(tmp_path, words_as_tokens, monkeypatch):
    rows = made_rows(10)
    rows[0]["Response"] = "long " * 2000
    source = write_rows(tmp_path / "rows.jsonl", rows)

    def put_the_long_one_aside(rows, *_):
        return [row | {"split": "validation" if row["line"] == 1 else "train"} for row in rows]

    monkeypatch.setattr(dataset_prep, "split", put_the_long_one_aside)
    with pytest.raises(InputError, match=r"too few rows fit model.max_length = 1024 to train and to validate"):
        prepare(make_run(tmp_path / "other", source), None)


@needs_shared
def test_real_rows_with_the_real_encoding(tmp_path):
    """A tokenizer of single bytes, made on the spot, with R1's template: real rows have some 3,000 characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE({letter: k for k, letter in enumerate(alphabet)}, []))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = (SHARED / "r1_distill_chat_template.jinja").read_text(encoding="utf-8")
    run = make_run(tmp_path / "run", SHARED / "medical_o1_en_187.jsonl", **{"model.max_length": 4096})
    report = prepare(run, tokenizer)
    assert report["provenance"]["rows"] == 187
    rows = [r for name in report["splits"] for r in read_jsonl(run / f"data/{name}.jsonl")]
    assert (
        len(rows) == sum(report["splits"].values()) == 187 - report["steps"][-1]["reasons"]["longer than 4096 tokens"]
    )
    for r in rows[:20]:  # one token a byte, the closing tag and the end of the sequence
        assert r["completion_tokens"] == len((r["Complex_CoT"] + "</think>" + r["Response"]).encode()) + 1
    twins = [r for r in rows if "gross hematuria and a unilateral flank mass" in r["Question"]]
    assert len(twins) == 2
    assert twins[0]["split"] == twins[1]["split"]


def test_a_question_longer_than_the_model_is_refused_before_training(tmp_path):
    question = {"id": "long", "question": "word " * 5_000, "options": {"A": "a", "B": "b"}, "answer_idx": "A"}
    write_jsonl(tmp_path / "q.jsonl", [question])
    run = open_run("smoke", tmp_path / "run", {"evaluation.questions": str(tmp_path / "q.jsonl")})
    with pytest.raises(
        InputError, match=r"^q, question long: its prompt has 5,\d\d\d tokens, and the model has 4,096 positions"
    ):
        prepare(run, load_tokenizer(run.config.model))
