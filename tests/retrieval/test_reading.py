"""Closed book against open: which prompts are asked, whose reply is whose, and what the comparison claims."""

import json
from types import SimpleNamespace

import pytest
from choices import choice_question
from libraries import document, library_of

from helpers.files import read_json, read_jsonl, write_jsonl
from helpers.prompts.passages import LEAD
from helpers.report.markdown import quoted
from helpers.report.results import open_book, reading_verdicts
from helpers.retrieval import reading
from helpers.retrieval.reading import compare_reading, found_for, read_and_answer
from helpers.retrieval.remarks import changed_pair, on_reading, reading_table
from helpers.run_dir.folder import open_run
from helpers.scoring import verdicts
from helpers.scoring.verdicts import CONDITIONS

HEART = {"question": "What does the heart do?", "relevant": "heart"}
QUESTIONS = [
    {"id": "q0", **HEART},
    {"id": "abstract", "question": "Does the liver grow?", "context": "The liver grows.\nOften.", "relevant": "123"},
    {"id": "unknown", "question": "Where is the spleen?"},
    {"id": "twin", **HEART, "answer_idx": "A"},  # the same text with another key
]
CORPUS = [
    {"id": "heart", "title": "Heart", "text": "The heart pumps blood."},
    {"id": "spleen", "title": "Spleen", "text": "The spleen filters blood."},
]


class Room:
    """A run whose model says `(B)` closed book and `(A)` where it reads passages; `asked` has its prompts by side."""

    def __init__(self, folder, monkeypatch, tokenizer, **settings):
        questions, corpus = folder / "quiz.jsonl", folder / "corpus.jsonl"
        write_jsonl(questions, [{"options": {"A": "one", "B": "two"}, "answer_idx": "B", **row} for row in QUESTIONS])
        write_jsonl(corpus, CORPUS)
        overrides = {"evaluation.questions": [str(questions)], "retrieval.sources": [str(corpus)]}
        overrides |= {f"retrieval.{key}": value for key, value in settings.items()}
        self.run = open_run("smoke", folder / "run", overrides)
        self.asked = {"base": [], "tuned": []}
        (self.run / "adapter").mkdir()
        self.tasks = reading.asked_questions(self.run)
        for side in self.asked:
            write_jsonl(self.run / f"evaluation/predictions.{side}.jsonl", map(self.stored, self.tasks["quiz"][:3]))
        replaced = {
            "load_tokenizer": lambda settings: tokenizer,
            "load_with_adapter": lambda config, adapter: SimpleNamespace(
                disable_adapter=lambda: monkeypatch.context(), dtype=None
            ),
            "encode_questions": lambda run, tokenizer, asked: [each["question"] for each in asked],
            "replies_of": self.replies,
            "force_answers": self.force,
        }
        for name, fake in replaced.items():
            monkeypatch.setattr(reading, name, fake)

    def stored(self, question):
        """As 05 leaves it, which asks with the context."""
        row = {"task": "quiz", "id": question.id, "question": question.as_prompt(), "reply": "Stored.</think>(B)"}
        row |= {"closed": True, "finished": True, "tokens": 3, "thinking_tokens": 1, "options": question.options}
        row |= {"answer_idx": question.answer_idx, "choice": "B", "correct": True}
        return {**row, "letters": {"A": 0.1, "B": 0.9}}

    def replies(self, run, model, tokenizer, prompts, side, kept):
        self.asked[side] += prompts
        letters = ["A" if LEAD in prompt else "B" for prompt in prompts]
        return [SimpleNamespace(text=f"New thought.</think>The answer is ({each}).", finished=True, tokens=5)
                for each in letters]  # fmt: skip

    def force(self, model, tokenizer, choices, side):
        for row, _ in choices:
            row["letters"] = {"A": 0.8, "B": 0.2}

    def rows(self, side="tuned"):
        rows = read_jsonl(self.run / f"retrieval/predictions.{side}.jsonl")
        return {(row["condition"], row["id"]): row for row in rows}


@pytest.fixture
def room(tmp_path, monkeypatch, r1_tokenizer):
    return lambda **settings: Room(tmp_path, monkeypatch, r1_tokenizer, **settings)


@pytest.fixture(scope="module")
def there(tmp_path_factory, r1_tokenizer):
    """A run that was read in each condition, with one passage."""
    with pytest.MonkeyPatch.context() as patch:
        conditions = ["open", "thought", "oracle"]
        made = Room(tmp_path_factory.mktemp("room"), patch, r1_tokenizer, conditions=conditions, k=1)
        made.metrics = read_and_answer(made.run)
    return made


def test_what_05_asked_with_the_same_text_is_not_asked_again(there):
    """The abstract's question is: 05 asked it with its context. So is nothing else closed book."""
    bare = [question.question for question in there.tasks["quiz"]]
    for asked in there.asked.values():
        closed = [prompt for prompt in asked if LEAD not in prompt and prompt not in bare]
        assert closed == [there.tasks["quiz"][1].as_prompt(context=False)]
    rows = there.rows()
    assert rows["closed", "q0"]["reply"] == "Stored.</think>(B)"
    assert rows["closed", "abstract"]["reply"].startswith("New thought.")


def test_a_stored_reply_without_forced_answers_is_asked_again(room):
    there = room()
    stored = [{key: value for key, value in there.stored(question).items() if key != "letters"}
              for question in there.tasks["quiz"]]  # fmt: skip
    write_jsonl(there.run / "evaluation/predictions.tuned.jsonl", stored)
    read_and_answer(there.run)
    bare = {question.as_prompt(context=False) for question in there.tasks["quiz"]}
    assert sorted(prompt for prompt in there.asked["tuned"] if LEAD not in prompt) == sorted(bare)


def test_the_report_reads_what_07_stores(there):
    """A conclusion for each kind of passages; the table has both sides, as written and made to answer."""
    assert [line.partition(":")[0] for line in reading_verdicts(there.run)] == ["quiz"] * 3
    assert len(open_book(there.run)) == 3 * 2 * 2


def test_each_distinct_prompt_is_asked_once(there):
    """Of the twins' six prompts with passages (all conditions find the same one) five are left out."""
    for asked in there.asked.values():
        assert len(asked) == len(set(asked))
        assert sum("What does the heart do?" in prompt for prompt in asked if LEAD in prompt) == 1


def test_a_reply_belongs_to_every_question_with_its_text(there):
    """The twins have one reply in each condition, of which their keys make opposite things."""
    rows = there.rows()
    ids = [row["id"] for row in QUESTIONS]
    assert sorted(rows) == sorted((condition, i) for condition in ("closed", *CONDITIONS) for i in ids)
    for condition, right in (("closed", "q0"), ("open", "twin"), ("oracle", "twin")):
        pair = [rows[condition, i] for i in ("q0", "twin")]
        assert pair[0]["reply"] == pair[1]["reply"]
        assert [row["id"] for row in pair if row["correct"]] == [right]
        assert [row["answer_idx"] for row in pair] == ["B", "A"]
    found = there.metrics["reading"]["quiz"]["tuned"]["open"]
    assert (found["n"], found["replied"]["mended"], found["replied"]["misled"]) == (4, 1, 3)


def test_a_row_says_what_was_read_and_whether_it_was_the_right_document(there):
    rows = {key: (row["sources"], row["found"]) for key, row in there.rows().items()}
    assert rows["closed", "q0"] == ([], None)
    assert rows["open", "q0"] == rows["oracle", "q0"] == (["corpus.jsonl#heart"], True)
    assert rows["open", "abstract"] == rows["oracle", "abstract"] == (["contexts.jsonl#123"], True)
    assert rows["open", "unknown"] == (["corpus.jsonl#spleen"], None)
    assert rows["oracle", "unknown"] == ([], None)
    assert rows["thought", "unknown"][1] is None


def test_a_thought_is_of_the_question_without_its_options(there):
    """An option in a thought would enter the query with it."""
    bare = {question.question for question in there.tasks["quiz"]}
    assert sum(prompt in bare for prompt in there.asked["tuned"]) == len(bare)
    thoughts = {row["thought"] for (condition, _), row in there.rows().items() if condition == "thought"}
    assert thoughts == {"New thought."}


def test_no_thought_is_asked_for_where_no_condition_uses_one(room):
    there = room(conditions=["open", "oracle"], k=1)
    metrics = read_and_answer(there.run)
    assert not set(there.asked["tuned"]) & {question.question for question in there.tasks["quiz"]}
    assert list(metrics["finding"]["quiz"]) == ["question"]


@pytest.mark.parametrize(("conditions", "searched"), [(["open"], 3), (["thought"], 2)])
def test_a_limit_holds_for_what_is_asked_and_not_for_what_is_searched_for(room, conditions, searched):
    """But a thought that nobody had is no query, and queries are compared over the same questions."""
    metrics = read_and_answer(room(conditions=conditions, max_questions=2).run)
    assert metrics["reading"]["quiz"]["tuned"][conditions[0]]["n"] == 2
    assert {found["n"] for found in metrics["finding"]["quiz"].values()} == {searched}


def test_a_question_without_room_for_passages_is_the_closed_book_one(room):
    there = room()
    settings = there.run.config.model_copy(
        update={"model": there.run.config.model.model_copy(update={"max_length": 16})}
    )
    read_and_answer(type(there.run)(there.run.path, settings))
    assert len(there.asked["tuned"]) == 1
    assert [row["sources"] for row in there.rows().values()] == [[]] * 12
    assert there.rows()["open", "q0"]["reply"] == "Stored.</think>(B)"


def test_the_metrics_are_stored_as_they_are_returned(there):
    metrics = there.metrics
    assert read_json(there.run / "retrieval/metrics.json") == json.loads(json.dumps(metrics))
    assert metrics["index"] == {"documents": 3, "passages": 3}
    assert metrics["finding"]["quiz"]["question"]["n"] == 3
    assert metrics["reading"]["quiz"]["tuned"]["oracle"]["n"] == 3  # but for the one whose document nobody knows


def test_a_real_models_rows_have_the_keys_of_05_and_what_was_read(tiny_run):
    run = tiny_run.run
    for side in ("base", "tuned"):
        stored = {
            row["id"]: row for row in read_jsonl(run / f"evaluation/predictions.{side}.jsonl") if "options" in row
        }
        rows = read_jsonl(run / f"retrieval/predictions.{side}.jsonl")
        assert [row["condition"] for row in rows].count("open") == len(stored) == 2
        for row in rows:
            assert row.keys() == stored[row["id"]].keys() | {"condition", "sources", "found"}
            if row["condition"] == "closed":
                assert {key: row[key] for key in stored[row["id"]]} == stored[row["id"]]
    assert read_json(run / "retrieval/metrics.json")["reading"]["sample"].keys() == {"base", "tuned"}


# ----------------------------------------------------------------------------------------------------------- passages


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    documents = [
        document("heart", "The heart beats.", "The heart has valves.", "Aspirin is given for the heart's vessels."),
        document("liver", "The liver is near the heart, the heart and the heart."),
        document("spleen", "Two spleens are rare."),
        *(document(f"f{n}", f"Bones and joints, number {n}.") for n in range(20)),  # so that no word is too common
    ]
    return library_of(tmp_path_factory.mktemp("read") / "index.sqlite", *documents)


def test_the_oracle_gives_passages_of_the_right_document_only_the_likeliest_first(library):
    question = choice_question(0, "heart valves", relevant="heart")
    found = found_for(library, question, "oracle", 2)
    assert [each.source for each in found] == ["heart", "heart"]
    assert found[0].text == "The heart has valves."
    assert len(found_for(library, question, "oracle", 5)) == 3
    assert found_for(library, choice_question(0, "heart valves"), "oracle", 5) == []


def test_the_oracle_of_a_question_with_its_context_is_that(library):
    for named, source in (("123", "contexts.jsonl#123"), (None, "contexts.jsonl#q0")):
        question = choice_question(0, "heart?", context="An abstract.", relevant=named)
        [found] = found_for(library, question, "oracle", 3)
        assert (found.text, found.source) == ("An abstract.", source)


def test_the_thought_takes_part_in_the_search_where_it_should(library):
    question = choice_question(0, "heart?", relevant="spleen")
    assert found_for(library, question, "thought", 1, "spleens spleens")[0].source == "spleen"
    assert {each.source for each in found_for(library, question, "open", 3, "spleens")} == {"heart", "liver"}


@pytest.mark.parametrize("condition", ["open", "thought", "oracle"])
def test_the_options_are_in_no_query(library, condition):
    library.index.asked.clear()
    for options in ({"A": "aspirin", "B": "heparin"}, {"A": "zebra", "B": "giraffe"}):
        found_for(library, choice_question(0, "heart?", options, relevant="heart"), condition, 2, "A thought.")
    one, other = library.index.asked
    assert one == other
    assert "aspirin" not in one


# ---------------------------------------------------------------------------------------------------------- comparing


def answered(condition, number, right, forced=None, found=None, finished=True, sources=("s",), side_task="quiz"):
    """A row of retrieval/predictions; `forced`: whether its forced answer is right."""
    letters = None if forced is None else {"A": 0.2 + 0.6 * forced, "B": 0.8 - 0.6 * forced}
    row = {
        "task": side_task,
        "id": f"{number}",
        "condition": condition,
        "correct": right and finished,
        "answer_idx": "A",
        "options": {"A": "one", "B": "two"},
    }
    row |= {"choice": "A" if right else "B", "finished": finished, "letters": letters, "found": found}
    return row | {"sources": [] if condition == "closed" else list(sources)}


def pairs(mended, misled, n, condition="open", **more):
    """Closed and open rows of n questions, of which so many are mended and misled, the others right both times."""
    rows = [answered("closed", i, i >= mended, **more) for i in range(n)]
    return rows + [answered(condition, i, not mended <= i < mended + misled, **more) for i in range(n)]


def test_what_reading_mended_and_misled_is_counted_by_hand():
    figures = compare_reading({"tuned": pairs(3, 1, 10)})["quiz"]["tuned"]["open"]["replied"]
    counted = {key: figures[key] for key in ("n", "mended", "misled", "closed", "accuracy")}
    assert counted == {"n": 10, "mended": 3, "misled": 1, "closed": 0.7, "accuracy": 0.9}
    assert figures["delta"] == pytest.approx(0.2)
    assert figures["mcnemar_p"] == pytest.approx(10 / 16)  # 3 or more of 4 one way: 2 (4 + 1) / 2^4


def test_the_forced_answers_are_a_reading_of_their_own():
    """Made to answer, the first question is mended; the second, which has no letters closed book, is left out."""
    rows = [answered("closed", 0, False, False), answered("closed", 1, True), answered("closed", 2, True, True)]
    rows += [answered("open", 0, False, True), answered("open", 1, True, True), answered("open", 2, True, True)]
    found = compare_reading({"tuned": rows})["quiz"]["tuned"]["open"]
    assert (found["replied"]["mended"], found["replied"]["n"]) == (0, 3)
    assert (found["made_to_answer"]["mended"], found["made_to_answer"]["n"]) == (1, 2)
    assert "made to answer" in verdicts.reading_verdict(found["made_to_answer"], "tuned", "open", forced=True)
    assert compare_reading({"tuned": pairs(1, 0, 6)})["quiz"]["tuned"]["open"]["made_to_answer"] is None


def test_shares_of_cut_off_abstained_and_found():
    rows = [answered("closed", i, True) for i in range(4)]
    rows += [answered("open", 0, True, found=True, finished=False), answered("open", 1, True, found=False)]
    rows += [{**answered("open", 2, False, found=True), "choice": None}, answered("open", 3, True, sources=())]
    rows[-1]["options"] = dict.fromkeys("ABCD", "one")
    found = compare_reading({"tuned": rows})["quiz"]["tuned"]["open"]
    assert (found["truncated"], found["abstained"], found["passages"]) == (0.25, 0.25, 0.75)
    assert found["found"] == pytest.approx(2 / 3)  # of those that name a document
    assert found["chance"] == pytest.approx((3 / 2 + 1 / 4) / 4)
    assert (found["replied"]["accuracy"], found["replied"]["misled"]) == (0.5, 2)  # a reply that was cut off is wrong


def test_the_oracle_is_compared_on_the_questions_whose_document_is_known():
    rows = pairs(2, 0, 6, "oracle")
    for row in rows[-2:]:
        row["sources"] = []
    found = compare_reading({"tuned": rows})["quiz"]["tuned"]
    assert (found["closed"]["n"], found["oracle"]["n"], found["oracle"]["replied"]["closed"]) == (6, 4, 0.5)
    for row in rows:
        row["sources"] = []
    assert compare_reading({"tuned": rows})["quiz"]["tuned"].keys() == {"closed"}


@pytest.mark.parametrize(
    ("mended", "misled", "verdict"),
    [
        (12, 0, "Reading helped: with {} the tuned model is right more often, by +60.0 points"),
        (0, 12, "Reading hurt: with {} the tuned model is right less often, by -60.0 points"),
        (5, 4, "Reading is not shown to help or to hurt: with {} the tuned model changes by"),
        (0, 0, "Reading is not shown to help or to hurt"),
    ],
)
def test_the_verdict_says_what_is_shown(mended, misled, verdict):
    figures = compare_reading({"tuned": pairs(mended, misled, 20)})["quiz"]["tuned"]["open"]["replied"]
    said = verdicts.reading_verdict(figures, "tuned", "open")
    assert said.startswith(verdict.format(CONDITIONS["open"]))
    assert f"{mended} mended and {misled} misled of 20" in said
    assert said.endswith("had four chances in five of being shown.") or "not shown" not in said


def test_the_p_values_of_a_reading_are_adjusted_together():
    """Six of six discordant pairs, p = 1/32: shown alone, and not where it is one of two comparisons."""
    alone = compare_reading({"tuned": pairs(6, 0, 10)})["quiz"]["tuned"]["open"]["replied"]
    assert alone["mcnemar_p_holm"] == alone["mcnemar_p"] == pytest.approx(1 / 32)
    assert verdicts.reading_verdict(alone, "tuned", "open").startswith("Reading helped")
    both = compare_reading({"base": pairs(6, 0, 10), "tuned": pairs(6, 0, 10)})["quiz"]
    for side in ("base", "tuned"):
        figures = both[side]["open"]["replied"]
        assert figures["mcnemar_p_holm"] == pytest.approx(1 / 16)
        assert "not shown to help or to hurt" in verdicts.reading_verdict(figures, side, "open")


@pytest.mark.parametrize(("low", "p", "shown"), [(0.1, 0.04, True), (-0.1, 0.04, False), (0.1, 0.05, False)])
def test_a_claim_needs_the_interval_and_the_p_value(low, p, shown):
    figures = {"delta": 0.3, "delta_ci95": [low, 0.5], "mcnemar_p_holm": p, "mended": 4, "misled": 1, "n": 10}
    said = verdicts.reading_verdict({**figures, "detectable": 0.25}, "base", "thought")
    assert said.startswith("Reading helped" if shown else "Reading is not shown")
    assert shown or ("about 25 points or more" in said) == (low < 0)


def test_tasks_and_sides_are_kept_apart():
    other = [{**row, "task": "other"} for row in pairs(0, 4, 8)]
    found = compare_reading({"base": pairs(1, 0, 5), "tuned": pairs(2, 0, 5) + other})
    assert found["quiz"]["base"]["open"]["replied"]["mended"] == 1
    assert found["quiz"]["tuned"]["open"]["replied"]["mended"] == 2
    assert found["other"]["tuned"]["open"]["replied"]["misled"] == 4
    assert found["other"].keys() == {"tuned"}


# ------------------------------------------------------------------------------------------------------------ remarks


def test_the_table_has_a_row_for_each_side_and_condition():
    rows = pairs(3, 1, 10, forced=True, found=True)
    table = reading_table(compare_reading({"base": pairs(0, 0, 5), "tuned": rows})["quiz"])
    assert [(row["model"], row["condition"], row["n"]) for row in table] == [
        ("base", "closed", "5"), ("base", "open", "5"), ("tuned", "closed", "10"), ("tuned", "open", "10"),
    ]  # fmt: skip
    assert [row["mended / misled"] for row in table] == ["-", "0 / 0", "-", "3 / 1"]
    assert [row["accuracy"] for row in table] == ["100.0%", "100.0%", "70.0%", "90.0%"]
    assert (table[0]["made to answer"], table[3]["made to answer"]) == ("-", "100.0%")
    assert (table[1]["right document shown"], table[3]["right document shown"]) == ("-", "100%")


def test_the_remark_gives_the_tuned_models_verdicts_by_condition():
    oracle = [row for row in pairs(0, 0, 20, "oracle", found=True) if row["condition"] == "oracle"]
    sides = compare_reading({"base": pairs(0, 12, 20), "tuned": pairs(12, 0, 20) + oracle})["quiz"]
    head, first, second_head, second = on_reading(sides).split("\n\n")
    assert (head, second_head) == (
        "**open.**",
        "**oracle.** The right document was among the tuned model's passages for 100%.",
    )
    assert first.startswith("- Reading helped")
    assert second.startswith("- Reading helped")
    assert "base" not in first + second  # it was not made to answer


def test_the_remark_has_the_base_model_made_to_answer_and_says_once_what_could_be_shown():
    sides = {side: pairs(0, 0, 20, forced=True) for side in ("base", "tuned")}
    said = on_reading(compare_reading(sides)["quiz"])
    assert [line.partition("the ")[2].partition(" changes")[0] for line in said.splitlines() if line[:1] == "-"] == [
        "question the tuned model", "question the tuned model, made to answer,",
        "question the base model, made to answer,",
    ]  # fmt: skip
    assert said.endswith("misled of 20.\n\nWith 20 questions, only a difference of about 35 points or more had four "
                         "chances in five of being shown.")  # fmt: skip
    changed = on_reading(compare_reading({"tuned": pairs(5, 5, 20, forced=True)})["quiz"])
    assert changed.count("With") == 1  # more discordant ones: a larger difference is detectable in the replies
    assert "only a difference of about 35 to 42 points or more" in changed


def test_a_verdict_at_the_edge_stands_as_it_is():
    """There the interval and the exact test disagree, which says more than what could have been shown."""
    figures = compare_reading({"tuned": pairs(6, 0, 20)})["quiz"]["tuned"]["open"]["replied"]
    edge = {**figures, "mcnemar_p_holm": 0.06}
    said = on_reading({"tuned": {"open": {"found": None, "replied": edge, "made_to_answer": None}}})
    assert said == f"**open.**\n\n- {quoted(verdicts.reading_verdict(edge, 'tuned', 'open'))}"
    assert said.endswith("test gives p = 0.06 after Holm, so this is at the edge of what 20 questions show.")


def test_an_example_of_each_change_is_the_first(tmp_path):
    rows = pairs(2, 3, 8)
    assert [row["id"] for row in changed_pair(rows, mended=True)] == ["0", "0"]
    closed, opened = changed_pair(rows, mended=False)
    assert (closed["id"], closed["condition"], opened["condition"]) == ("2", "closed", "open")
    assert changed_pair(pairs(0, 1, 8), mended=True) is None
