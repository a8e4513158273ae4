"""Strict scoring: a table of replies written by hand."""

import pytest

from helpers.scoring import extract_choice

DRUGS = {"A": "Gentamicin", "B": "Ciprofloxacin", "C": "Ceftriaxone", "D": "Trimethoprim"}
POLAR = {"A": "yes", "B": "no", "C": "maybe"}
VIRUS = {"A": "Hepatitis B", "B": "Hepatitis C", "C": "Hepatitis A", "D": "Vitamin C deficiency"}
GERMS = {"A": "Escherichia coli", "B": "Bacillus cereus", "C": "Clostridioides difficile", "E": "S. aureus"}
NESTED = {"A": "T3", "B": "T4", "C": "T3 and T4", "D": "None of the above"}
MANY = dict(
    zip("ABCDEFGHI", ["iron", "zinc", "lead", "gold", "tin", "copper", "silver", "mercury", "iodine"], strict=True)
)
NUMBERS = {"A": "4", "B": "4.5", "C": "40%", "D": "14"}
TWINS = {"A": "Scoliosis", "B": "Lordosis", "C": "Kyphosis", "D": "Kyphosis"}

# Kind of reply -> (what follows the thought, the choice that a careful reader writes down, the options if not DRUGS).
TABLE = {
    "named": [
        ("I would choose B.", "B"),
        ("I'll go with option D.", "D"),
        ("So it's C.", "C"),
        ("Therefore, C.", "C"),
        ("Gonococci lack a capsule. Thus, (C).", "C"),
        ("This corresponds to option C.", "C"),
        ("If I had to choose, I would say C.", "C"),
        ("There is no doubt that the answer is C.", "C"),
        ("The answer is most likely B.", "B"),
        ("We can rule out the others, which leaves us with D.", "D"),
        ("The answer is C, even if resistance is rising.", "C"),
        ("That would be C.", "C"),
        ("We conclude C.", "C"),
        ("I think C.", "C"),
        ("I'd pick C.", "C"),
        ("In conclusion, C.", "C"),
        ("From the given options, the correct one is C.", "C"),
        ("The answer is the letter C.", "C"),
        ("The answer is C since B is a quinolone.", "C"),
        ("The answer is C which blocks the wall.", "C"),
        ("The answer is C although A is cheaper.", "C"),
        ("The answer is C based on the culture.", "C"),
        ("The answer is C here.", "C"),
        ("The answer is C in this case.", "C"),
        ("The answer is C because, if the wall is weak, the cell bursts.", "C"),
        ("The answer is C instead of A.", "C"),
        ("The answer is C over A.", "C"),
        ("To answer this, note that the drug is C and the germ is D.", None),
        ("The diagnosis is (C).", "C"),
        ("The most probable drug is (C).", "C"),
        ("The most suitable drug is (C).", "C"),
        ("The most accurate description is (C).", "C"),
        ("I select C.", "C"),
        ("I opt for C.", "C"),
        ("I settle on C.", "C"),
        ("We answer C.", "C"),
        ("Finally, C.", "C"),
        ("In summary, C.", "C"),
        ("Hence C.", "C"),
        ("I believe C.", "C"),
        ("The right answer C.", "C"),
        ("This is C.", "C"),
        ("The answer is C due to its target.", "C"),
        ("The answer is C while B acts on gyrase.", "C"),
        ("The answer is C so treat now.", "C"),
        ("If we have to choose, the answer is C.", "C"),
        ("The answer is C since, if the wall is weak, the cell bursts.", "C"),
        ("The answer is C as, if the wall is weak, the cell bursts.", "C"),
        ("The answer is C given that, if untreated, it spreads.", "C"),
        ("The answer is C, which, if given early, cures.", "C"),
        ("The answer is C, while if he were allergic it would differ.", "C"),
        ("Without a doubt the answer is C.", "C"),
        ("The correct answer is indeed C.", "C"),
        ("The answer is thus C.", "C"),
        ("The answer is C (A and B are wrong).", "C"),
        ("The answer is C. Option A is the best known drug though.", "C"),
        ("You could choose C.", None),
        ("The most likely drug(s) is (C).", "C"),
        ("The best choice is B because of the germ.", "B"),
    ],
    "label": [
        ("Answer: C", "C"),
        ("Ans: C", "C"),
        ("Answer C", "C"),
        ("Final answer: B", "B"),
        ("The correct answer is:\n\n**C. Ceftriaxone**", "C"),
        ("### Final Answer\nC\n\n### Explanation\nIt blocks the cell wall.", "C"),
        ("Answer: C<|im_end|>", "C"),
        ("✅ Answer: C", "C"),
        ("Final Answer\n\nThe final answer is $\\boxed{C}$", "C"),
        ("Answer: C\nExplanation: A, B and D do not act on the wall.", "C"),
    ],
    "markup": [
        ("**C**", "C"),
        ("*C*", "C"),
        ("__C__", "C"),
        ("`C`", "C"),
        ("> Final answer: *C*", "C"),
        ("The answer is ~~B~~ C.", "C"),
        ("<b>C</b>", "C"),
        (r"\fbox{C}", "C"),
        (r"\boxed{A} or \boxed{C}", None),
        (r"\boxed{A}" + "\n" + r"\boxed{C}", "C"),
    ],
    "letter alone": [
        ("C", "C"),
        ("C.", "C"),
        ("Option C", "C"),
        ("C because it blocks the cell wall.", "C"),
        ("C?", None),
        ("C", "C", {"A": "C", "B": "A", "C": "B", "D": "D"}),
    ],
    "letter with its text": [
        ("C) Ceftriaxone", "C"),
        ("C. Ceftriaxone. The culture shows gonococci.", "C"),
        ("The best treatment is a third-generation cephalosporin (C).", "C"),
        ("C. Kyphosis", "C", TWINS),
        ("The answer is C: T3 and T4.", "C", NESTED),
        ("C ceftriaxone", "C"),
        ("The best answer is a cephalosporin such as ceftriaxone (option C).", "C"),
        ("The answer is A pneumothorax.", "B", {"A": "Asthma", "B": "Pneumothorax"}),
    ],
    "letter against its text": [
        ("B) Ceftriaxone", None),
        (r"\boxed{B. Ceftriaxone}", None),
        ("Answer: A. no", None, POLAR),
        ("B ceftriaxone", None),
        ("The answer is ceftriaxone, which is option B.", None),
    ],
    "text alone": [
        ("Ceftriaxone", "C"),
        ("The answer is ceftriaxone rather than gentamicin.", "C"),
        ("The answer is hepatitis B.", "A", VIRUS),
        ("Answer: 4", "A", NUMBERS),
        ("The answer is 400.", None, NUMBERS),
        ("The most appropriate drug is ceftriaxone. Gentamicin acts on ribosomes.", None),
        ("Ceftriaxone does not fit.", None),
        ("Vancomycin", None),
        ("Ceftriaxone\nGentamicin", None),
        ("It is ceftriaxone.", "C"),
        ("The answer is not gentamicin but ceftriaxone.", "C"),
        ("The best next step is to stop the drug.", "B", {"A": "Reassurance", "B": "Stop the drug"}),
        ("Ceftriaxone, not gentamicin.", "C"),
    ],
    "yes, no, maybe": [
        ("Yes", "A", POLAR),
        ("no.", "B", POLAR),
        ("**Maybe**", "C", POLAR),
        ("The answer is A, no doubt about it.", "A", POLAR),
        ("The study found no difference. The answer is yes.", "A", POLAR),
        ("Yes - the study shows so.", "A", POLAR),
        ("The answer is not yes but no.", "B", POLAR),
        ("The study does not show it, so no.", "B", POLAR),
    ],
    "several letters": [
        ("A and C", None),
        ("A, C", None),
        ("A/C", None),
        ("The best drug is an aminoglycoside (A) or a cephalosporin (C).", None),
        ("The answer is C and the patient should be watched.", "C"),
        ("The answer is C, possibly A.", None),
        ("The answer is A, maybe C.", None),
        ("The answer is C, but also A.", None),
    ],
    "denied": [
        ("The answer cannot be B.", None),
        ("I don't think the answer is B.", None),
        ("Not B.", None),
        ("Not A but B.", "B"),
        ("It is not A but rather B.", "B"),
        ("The answer is C rather than A or B.", "C"),
        ("The answer is C. The answer is not B.", "C"),
        ("The false option is B.", None),
        ("The other option is B.", None),
        ("The second best answer is B.", None),
        ("The worst choice is B.", None),
        ("The excluded option is B.", None),
        ("The eliminated option is B.", None),
        ("I doubt that the answer is B.", None),
        ("I disagree that the answer is B.", None),
        ("It is unlikely that the answer is B.", None),
        ("No B.", None),
    ],
    "last statement wins": [
        ("I first thought the answer was A, but it is C.", "C"),
        ("The answer is B. Actually, C.", "C"),
        ("C is the best choice at first sight, but D is the correct answer.", "D"),
        ("The answer is B. The answer is none of the above.", None),
        ("The answer is B. Correction: C", "C"),
        ("The answer is B. Wait, C.", "C"),
        ("The answer is B. The answer is neither A nor B.", None),
        ("The answer is A, no wait, C.", "C"),
        ("Answer: A ... no, C.", "C"),
    ],
    "subject": [
        ("C is correct.", "C"),
        ("(C) is right.", "C"),
        ("I believe that C is the most appropriate option.", "C"),
        ("A, B and D do not act on the wall; hence C is the answer.", "C"),
        ("C is the least likely option.", None),
        ("C is likely correct.", "C"),
        ("C appears to be correct.", "C"),
        ("C seems right.", "C"),
        ("C must be the answer.", "C"),
        ("C remains the best answer.", "C"),
        ("C is most likely.", "C"),
        ("C is our answer.", "C"),
        ("A and B are out, leaving C as the answer.", "C"),
        ("This makes C the answer.", "C"),
        ("It blocks the wall, and C is the answer.", "C"),
        ("It blocks the wall; so C is the answer.", "C"),
        ("It blocks the wall, because C is the answer.", "C"),
        ("I doubt it, while C is the answer.", "C"),
        ("The wall is lysed, making C the answer.", "C"),
        ("C is my choice.", "C"),
        ("C is the only plausible option.", "C"),
        ("C seems to be the best choice.", "C"),
        ("A and C are right.", None),
        ("The effect was large. Yes, this seems right.", None, POLAR),
    ],
    "lower case": [
        ("c", "C"),
        ("c)", "C"),
        ("the answer is (c) ceftriaxone", "C"),
        ("the answer is b. the drug stops gyrase.", "B"),
    ],
    "letters that are words": [
        ("A patient with arthritis needs treatment.", None),
        ("The patient has hepatitis B.", None),
        ("I", "I", MANY),
        ("Answer: I am not sure.", None, MANY),
        ("The answer is C. difficile.", None, GERMS),
        ("The answer is A-fib.", None),
        ("Cab", None),
        ("e.g. a wall lysis, i.e. death", None, MANY),
        ("The answer is A+ blood.", None),
    ],
    "letters of other alphabets": [
        ("Answer: С", "C"),  # Cyrillic Es
        ("А", "A"),  # Cyrillic A
        ("Ａ", "A"),  # full width
        ("**𝐂**", "C"),  # mathematical bold
    ],
    "no option": [
        ("F", None),
        ("Answer: E", None),
        ("The answer is (Z).", None),
    ],
    "unreal": [
        ("Unless he is allergic, the answer is C.", None),
        ("Some might say the answer is A.", None),
        ("It is tempting to choose A.", None),
        ("Many students choose B.", None),
        ("At first glance, the answer is B.", None),
        ("Is the answer B?", None),
        ("Could it be C?", None),
        ("The answer could be C.", None),
        ("It is unclear whether the answer is C.", None),
        ("Had the drug acted on gyrase, the answer would be B.", None),
        ("Assuming gonorrhoea, the answer is C.", None),
        ("Suppose the answer is C.", None),
        ("Otherwise the answer is C.", None),
        ("Initially the answer is B.", None),
        ("My initial answer is B.", None),
        ("My first guess is that the answer is B.", None),
        ("You may think the answer is A.", None),
        ("One would think the answer is A.", None),
        ("The answer may be A, though C is possible.", None),
        ("One is tempted to say the answer is A.", None),
        ("It is a mistake to say the answer is A.", None),
        ("Some people choose A.", None),
        ("Some would choose A.", None),
        ("At first the answer is A.", None),
        ("One could assume the answer is A.", None),
        ("One might choose A.", None),
        ("My first thought is that the answer is B.", None),
        ("My first impression is that the answer is B.", None),
        ("My initial choice is B.", None),
        ("Were he allergic, the answer would be B.", None),
        ("The answer might be C.", None),
        ("The answer can be C.", None),
        ("If he has gonorrhoea, he needs a wall drug, therefore the answer is C.", "C"),
        ("If he has gonorrhoea, he needs a wall drug, thus the answer is C.", "C"),
        ("If he has gonorrhoea, he needs a wall drug, hence the answer is C.", "C"),
    ],
    "walk through the options": [
        ("Answer:\nA) Gentamicin\nB) Ciprofloxacin", None),
        ("A) Gentamicin. Wrong.", None),
        ("A) wrong\nB) wrong\nC) right\nD) wrong\n\nC", "C"),
        ("C) Ceftriaxone\n\nA) binds 30S\nB) stops gyrase\nD) stops folate", "C"),
        ("A) wrong\nB) wrong\n\nThe answer is C.", "C"),
        ("Option A: wrong.\nOption B: wrong.\nOption C: right.\nOption D: wrong.", None),
        ("A) Gentamicin. Incorrect, it binds 30S.\nB) Ciprofloxacin. This is the correct answer.", "B"),
        ("Answer: C\n\nWhy not B?\nB) Ciprofloxacin\nIt stops gyrase.", "C"),
    ],
    "no answer": [
        ("", None),
        ("...", None),
    ],
}
CASES = [
    pytest.param(f"Let me think. The answer is D.\n</think>\n\n{case[0]}", case[1], (*case, DRUGS)[2], id=f"{kind}-{i}")
    for kind, cases in TABLE.items()
    for i, case in enumerate(cases, 1)
]


@pytest.mark.parametrize(("reply", "expected", "options"), CASES)
def test_the_table_of_replies(reply, expected, options):
    assert extract_choice(reply, options) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("The answer is C.", None),  # no closing tag: all of it is a thought
        ("<think>\nThe answer is C.", None),
        ("<think>\nThe answer is C.\n</think>\n", None),  # inside the thought only
        ("The answer is C.\n</think>\n\nI am not sure.", None),
        ("Hm. </think> The answer is A. </think> The answer is C.", "C"),
        ("The answer is B. </think> The answer is C. </think> So be it.", None),
        ("Hm. </think> The answer is C. <think> Or is it A?", None),  # a new thought that never ends
        ("Hm. </think>C", "C"),
        ("", None),
        ("</think>", None),
    ],
)
def test_only_what_follows_the_last_closed_thought_is_read(reply, expected):
    assert extract_choice(reply, DRUGS) == expected


@pytest.mark.parametrize("options", ["ABCD", ["A", "B", "C", "D"], list(DRUGS.values()), dict.fromkeys("ABCD", "")])
def test_options_may_be_letters_or_texts(options):
    assert extract_choice("</think>The answer is C.", options) == "C"
    assert extract_choice("</think>The answer is F.", options) is None


def test_the_letter_comes_back_as_it_is_written_in_the_options():
    assert extract_choice("</think>The answer is B.", {"a": "zinc", "b": "iron"}) == "b"


@pytest.mark.parametrize("options", [{"A": "zinc", "a": "iron"}, {"1": "zinc"}, {"AB": "zinc"}])
def test_options_without_distinct_single_letters_are_refused(options):
    with pytest.raises(ValueError, match="distinct single letters"):
        extract_choice("</think>A", options)
