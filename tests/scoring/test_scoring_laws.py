"""What holds for any reply: no guess, no slow reply, what must not change a letter. Any text at all: test_fuzz."""

import time
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scoring import DRUGS, VITAMINS

from helpers.scoring.choice import extract_choice

WORDS = [
    *"ABCDEIabcdi", *DRUGS.values(), "the answer is", "Answer:", "option", "not", "but", "or", "and", "if", "(", ")",
    ".", ",", ":", "\n", "?", "-", "**", "\\boxed{", "}", "‹L:A›", "‹", "›", "</think>", "is correct", "yes", "С",
    "none",
]  # fmt: skip
REPLIES = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join))


@settings(max_examples=40, deadline=None)
@given(REPLIES, st.sampled_from("ABCD"))
def test_a_plain_last_line_wins_over_whatever_stands_before(text, letter):
    assert extract_choice(f"</think>{text}\n\nFinal answer: {letter}", DRUGS) == letter


def test_a_reply_that_repeats_itself_is_read_in_good_time():
    for text in [
        "A or ",
        "A patient ",
        "a patient or ",
        "The answer is A, ",
        "answer " * 50 + "is ",
        "(A) Gentamicin ",
        "A) no\n",
        "- > ",
        "‹L:A›" * 9,
        "C. Ceftriaxone and Gentamicin, ",
        "si ",
        "选C",
        "<A>",
    ]:
        start = time.process_time()
        extract_choice("</think>" + text * (20_000 // len(text)), DRUGS)
        assert time.process_time() - start < 1, text


# Texts of options by kind; a question's options are of one kind or two, as in real questions.
TEXTS = {
    "drugs": [
        "Ceftriaxone", "Gentamicin", "Vitamin C", "Vitamin B12", "Amoxicillin-clavulanate", "Insulin glargine",
        "Interferon alfa", "Amphotericin B", "Botulinum toxin type A", "Trimethoprim/sulfamethoxazole", "Aspirin",
        "Low-dose aspirin", "(S)-warfarin",
    ],
    "diagnoses": [
        "Multiple myeloma", "Hepatitis B", "Hepatitis C", "Iron deficiency anaemia", "A ruptured ectopic pregnancy",
        "Type 2 diabetes", "Type 2 diabetes with ketoacidosis", "Crohn's disease", "Haemophilia A", "Factor V Leiden",
        "Group B streptococcus", "Guillain-Barré syndrome", "E. coli O157:H7", "C. difficile colitis", "AIDS",
        "IgA nephropathy", "Vitamin B12 deficiency", "Protein C deficiency", "Stage II–III",
    ],
    "numbers": [
        "Ceftriaxone 1 g IV", "Ceftriaxone 250 mg IM", "0.5 mg/kg b.d.", "Adrenaline 0.5 mg i.m.", "7.35", "40%", "3",
        "7.35 to 7.45", "12", "24 mmol/L", ">90%", "< 5 mg/dL", "10-20 years", "1:10,000", "2.5 x 10^9/L", "p < 0.05",
    ],
    "sentences": [
        "A single dose of ceftriaxone", "An abdominal CT", "I.V. vancomycin", "It is inherited as X-linked recessive",
        "Increases cAMP", "Reassure and discharge", "No treatment is needed", "Do not resuscitate",
        "If febrile, start antibiotics", "Stop the drug, and repeat the test in 2 weeks.", "Because of iron loss",
        "Start i.v. fluids (0.9% saline), then insulin", "Refer to a specialist; begin treatment now",
        "Not associated with smoking", 'Ask: "Do you feel safe at home?"', "Is always fatal",
        "Anti-D immunoglobulin (RhoGAM) at 28 weeks",
    ],
    "odd": [
        "None of the above", "All of the above", "Both A and B", "A and C only", "1, 2 and 3", "K", "G", "E",
        "Cannot be determined", "T4 (thyroxine)", "α-fetoprotein", "[18F]FDG PET", "Na+/K+ ATPase", "TGF-β",
        "CD4+ T cells", "B cells", "A-fib", "Option 2",
    ],
}  # fmt: skip
CARRIERS = [
    "The answer is {}", "Answer: {}", "**Answer:** {}", "The correct answer is **{}", "Final answer: {}", "{}",
    "### Final Answer\n{}", "The findings are typical. Therefore, the answer is {}", "I would choose option {}",
    "The best choice here is {}", "Thus, the correct option is {}", "Die richtige Antwort ist {}", "答案是{}",
]  # fmt: skip
WITH_TEXT = ["{}. {}", "({}) {}", "{}) {}", "{}: {}", "{} - {}", "{} ({})", "{}, {}", "{} – {}"]
ENDINGS = [
    ".", " because it explains all the findings.", ", which fits the findings.", ". It fits the findings best.",
    ". This is supported by the history and by the laboratory values.",
]  # fmt: skip
AFTER_TEXT = ["", " is typical in this setting.", " explains the findings.", " (see above)."]
CLOSINGS = [
    "", "\n\nI hope this helps.", "\n\nThe other options do not fit the findings.",
    "\n\n**Explanation:** The history and the laboratory findings are typical.",
]  # fmt: skip


@st.composite
def options(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(TEXTS)), min_size=1, max_size=2, unique=True))
    pool = [text for kind in kinds for text in TEXTS[kind]]
    return dict(zip("ABCD", draw(st.lists(st.sampled_from(pool), min_size=4, max_size=4, unique=True)), strict=True))


@settings(max_examples=100, deadline=None)
@given(options(), st.sampled_from("ABCD"), st.sampled_from(CARRIERS), st.data())
def test_a_letter_stays_with_its_text_a_reason_or_a_closing_sentence(lettered, letter, carrier, data):
    letter_form = data.draw(st.sampled_from(["{}", "({})", *WITH_TEXT]))
    ending = data.draw(st.sampled_from(ENDINGS + AFTER_TEXT * (letter_form in WITH_TEXT)))
    closing = data.draw(st.sampled_from(CLOSINGS))
    reply = carrier.format(letter_form.format(letter, lettered[letter]) + ending) + closing
    assert extract_choice(f"</think>{reply}", lettered) == letter


@settings(max_examples=50, deadline=None)
@given(options(), st.permutations("ABCD"), st.sampled_from(CARRIERS), st.sampled_from(WITH_TEXT))
def test_a_letter_with_another_options_text_is_none(lettered, order, carrier, letter_form):
    letter, other = order[:2]
    reply = carrier.format(letter_form.format(letter, lettered[other])) + "."
    assert extract_choice(f"</think>{reply}", lettered) is None


@settings(max_examples=40, deadline=None)
@given(options(), st.sampled_from(["AB", "ABC", "BCD", "ABCD"]), st.sampled_from(WITH_TEXT), st.data())
def test_a_walk_through_the_options_states_nothing(lettered, letters, letter_form, data):
    remark = data.draw(st.sampled_from([*AFTER_TEXT, ".", ": see above.", " is not used here.", ". It is rare."]))
    intro = data.draw(st.sampled_from(["", "Let us look at the options.\n", "**Analysis**\n\n"]))
    walk = "\n".join(letter_form.format(letter, lettered[letter]) + remark for letter in letters)
    assert extract_choice(f"</think>{intro}{walk}", lettered) is None


OTHERS = [
    "{1} is less suitable.", "{1} ({0}) is nephrotoxic.", "{1} would also be reasonable in allergy.",
    "{1} alone fails.", "{1} does not fit the findings.", "{1} is a common distractor.",
    "Option {0}, {1}, is used in other settings.", "{0} is wrong, since it is used in other settings.",
    "{1}, by contrast, has more side effects.", "In contrast, {1} is used later.",
]  # fmt: skip


@pytest.mark.parametrize("lettered", [DRUGS, VITAMINS])
@pytest.mark.parametrize("other", OTHERS)
def test_a_sentence_on_another_option_takes_no_statement_back(lettered, other):
    """As replies in the form that the question asks for go on. Options of one kind, named in plain sentences."""
    carriers = ["The answer is ({}).", "The answer is {}.", "The answer is option {}."]
    for carrier, gap, (letter, one) in product(carriers, [" ", "\n\n"], permutations(lettered, 2)):
        reply = carrier.format(letter) + gap + other.format(one, lettered[one])
        assert extract_choice(f"thought</think>{reply}", lettered) == letter, reply
