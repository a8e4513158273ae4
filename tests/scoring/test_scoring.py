"""Strict scoring: replies whose letters were decided by hand before the scorer saw them."""

import pytest

from helpers.scoring.choice import extract_choice

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
CANCER = {
    "A": "Acute myeloid leukaemia", "B": "Iron deficiency anaemia", "C": "Multiple myeloma",
    "D": "Waldenström macroglobulinaemia",
}  # fmt: skip
CLOTTING = {
    "A": "Factor V Leiden", "B": "Protein C deficiency", "C": "Antithrombin III deficiency",
    "D": "Protein S deficiency",
}  # fmt: skip
VITAMINS = {"A": "Vitamin A", "B": "Vitamin B12", "C": "Vitamin C", "D": "Vitamin D"}
BLOOD = {"A": "Type A", "B": "Type B", "C": "Type AB", "D": "Type O"}
DIABETES = {
    "A": "Type 2 diabetes", "B": "Type 2 diabetes with ketoacidosis", "C": "Type 1 diabetes", "D": "Diabetes insipidus",
}  # fmt: skip
BACTERIA = {"A": "E. coli", "B": "S. aureus", "C": "N. gonorrhoeae (beta-lactamase positive)", "D": "C. difficile"}
COUNTS = {"A": "1", "B": "2", "C": "3", "D": "4"}
LABS = {"A": "7.35", "B": "7.45", "C": "7.35 to 7.45", "D": "24 mmol/L"}
ARTICLES = {
    "A": "A single dose of ceftriaxone", "B": "Intravenous fluids", "C": "I.V. vancomycin", "D": "An abdominal CT",
}  # fmt: skip
GENES = {"A": "BRCA1", "B": "BRCA2", "C": "TP53", "D": "APC"}
ZH = {"A": "庆大霉素", "B": "环丙沙星", "C": "头孢曲松", "D": "甲氧苄啶"}
BEDSIDE = {
    "A": "Start insulin and give 0.9% saline", "B": "Order an MRI of the brain", "C": "Reassurance",
    "D": "None of these",
}  # fmt: skip

# Kind of reply -> (the choice that a careful reader writes down, the options, what follows the thought).
TABLE = {
    "named": [
        ("B", DRUGS, ["I would choose B.", "The answer is most likely B.",
            "The best choice is B because of the germ."]),
        ("D", DRUGS, ["I'll go with option D.", "We can rule out the others, which leaves us with D."]),
        ("C", DRUGS, ["So it's C.", "Therefore, C.", "Gonococci lack a capsule. Thus, (C).",
            "This corresponds to option C.", "If I had to choose, I would say C.",
            "There is no doubt that the answer is C.", "The answer is C, even if resistance is rising.",
            "That would be C.", "We conclude C.", "I think C.", "I'd pick C.", "In conclusion, C.",
            "From the given options, the correct one is C.", "The answer is the letter C.",
            "The answer is C since B is a quinolone.", "The answer is C which blocks the wall.",
            "The answer is C although A is cheaper.", "The answer is C based on the culture.", "The answer is C here.",
            "The answer is C in this case.", "The answer is C because, if the wall is weak, the cell bursts.",
            "The answer is C instead of A.", "The answer is C over A.", "The diagnosis is (C).",
            "The most probable drug is (C).", "The most suitable drug is (C).", "The most accurate description is (C).",
            "I select C.", "I opt for C.", "I settle on C.", "We answer C.", "Finally, C.", "In summary, C.",
            "Hence C.", "I believe C.", "The right answer C.", "This is C.", "The answer is C due to its target.",
            "The answer is C while B acts on gyrase.", "The answer is C so treat now.",
            "If we have to choose, the answer is C.", "The answer is C since, if the wall is weak, the cell bursts.",
            "The answer is C as, if the wall is weak, the cell bursts.",
            "The answer is C given that, if untreated, it spreads.", "The answer is C, which, if given early, cures.",
            "The answer is C, while if he were allergic it would differ.", "Without a doubt the answer is C.",
            "The correct answer is indeed C.", "The answer is thus C.", "The answer is C (A and B are wrong).",
            "The answer is C. Option A is the best known drug though.", "The most likely drug(s) is (C)."]),
        (None, DRUGS, ["To answer this, note that the drug is C and the germ is D.", "You could choose C."]),
    ],
    "label": [
        ("C", DRUGS, ["Answer: C", "Ans: C", "Answer C", "The correct answer is:\n\n**C. Ceftriaxone**",
            "### Final Answer\nC\n\n### Explanation\nIt blocks the cell wall.", "Answer: C<|im_end|>", "✅ Answer: C",
            "Final Answer\n\nThe final answer is $\\boxed{C}$",
            "Answer: C\nExplanation: A, B and D do not act on the wall.", "Ans. C", "ANS C", "Correct: C",
            "Response: C", "Selected option: C", "My choice: C", "Solution: C", "| **Answer** | **C** |"]),
        ("B", DRUGS, ["Final answer: B"]),
        ("C", CANCER, ["Diagnosis: C"]),
        (None, DRUGS, ["Answer: C?"]),
    ],
    "markup": [
        ("C", DRUGS, ["**C**", "*C*", "__C__", "`C`", "> Final answer: *C*", "The answer is ~~B~~ C.", "<b>C</b>",
            r"\fbox{C}", r"\boxed{A}" + "\n" + r"\boxed{C}"]),
        (None, DRUGS, [r"\boxed{A} or \boxed{C}"]),
    ],
    "letter alone": [
        ("C", DRUGS, ["C", "C.", "Option C", "C because it blocks the cell wall."]),
        (None, DRUGS, ["C?"]),
        ("C", {"A": "C", "B": "A", "C": "B", "D": "D"}, ["C"]),
    ],
    "letter with its text": [
        ("C", DRUGS, ["C) Ceftriaxone", "C. Ceftriaxone. The culture shows gonococci.",
            "The best treatment is a third-generation cephalosporin (C).", "C ceftriaxone",
            "The best answer is a cephalosporin such as ceftriaxone (option C)."]),
        ("C", TWINS, ["C. Kyphosis"]),
        ("C", NESTED, ["The answer is C: T3 and T4."]),
        ("B", {"A": "Asthma", "B": "Pneumothorax"}, ["The answer is A pneumothorax."]),
    ],
    "letter against its text": [
        (None, DRUGS, ["B) Ceftriaxone", r"\boxed{B. Ceftriaxone}", "B ceftriaxone",
            "The answer is ceftriaxone, which is option B.", "The answer is D. Ceftriaxone 1 g IV.",
            "D. Ceftriaxone inhibits cell wall synthesis.", "The answer is D. Ceftriaxone",
            "The answer is D. Ceftriaxone, which is a cephalosporin."]),
        (None, POLAR, ["Answer: A. no"]),
        (None, VITAMINS, ["The answer is C. Vitamin D."]),
    ],
    "text alone": [
        ("C", DRUGS, ["Ceftriaxone", "The answer is ceftriaxone rather than gentamicin.", "It is ceftriaxone.",
            "The answer is not gentamicin but ceftriaxone.", "Ceftriaxone, not gentamicin."]),
        ("A", VIRUS, ["The answer is hepatitis B."]),
        ("A", NUMBERS, ["Answer: 4"]),
        (None, NUMBERS, ["The answer is 400."]),
        (None, DRUGS, ["The most appropriate drug is ceftriaxone. Gentamicin acts on ribosomes.",
            "Ceftriaxone does not fit.", "Vancomycin", "Ceftriaxone\nGentamicin"]),
        ("B", {"A": "Reassurance", "B": "Stop the drug"}, ["The best next step is to stop the drug."]),
    ],
    "yes, no, maybe": [
        ("A", POLAR, ["Yes", "The answer is A, no doubt about it.", "The study found no difference. The answer is yes.",
            "Yes - the study shows so.", "Yes, the answer is yes.", "Final decision: yes"]),
        ("B", POLAR, ["no.", "The answer is not yes but no.", "The study does not show it, so no.", "In short: no."]),
        ("C", POLAR, ["**Maybe**"]),
        (None, POLAR, ["Answer: A. No."]),
    ],
    "several letters": [
        (None, DRUGS, ["A and C", "A, C", "A/C", "The best drug is an aminoglycoside (A) or a cephalosporin (C).",
            "The answer is C, possibly A.", "The answer is A, maybe C.", "The answer is C, but also A."]),
        ("C", DRUGS, ["The answer is C and the patient should be watched."]),
    ],
    "denied": [
        (None, DRUGS, ["The answer cannot be B.", "I don't think the answer is B.", "Not B.", "The false option is B.",
            "The other option is B.", "The second best answer is B.", "The worst choice is B.",
            "The excluded option is B.", "The eliminated option is B.", "I doubt that the answer is B.",
            "I disagree that the answer is B.", "It is unlikely that the answer is B.", "No B."]),
        ("B", DRUGS, ["Not A but B.", "It is not A but rather B."]),
        ("C", DRUGS, ["The answer is C rather than A or B.", "The answer is C. The answer is not B."]),
    ],
    "last statement wins": [
        ("C", DRUGS, ["I first thought the answer was A, but it is C.", "The answer is B. Actually, C.",
            "The answer is B. Correction: C", "The answer is B. Wait, C.", "The answer is A, no wait, C.",
            "Answer: A ... no, C."]),
        ("D", DRUGS, ["C is the best choice at first sight, but D is the correct answer."]),
        (None, DRUGS, ["The answer is B. The answer is none of the above.",
            "The answer is B. The answer is neither A nor B."]),
    ],
    "subject": [
        ("C", DRUGS, ["C is correct.", "(C) is right.", "I believe that C is the most appropriate option.",
            "A, B and D do not act on the wall; hence C is the answer.", "C is likely correct.",
            "C appears to be correct.", "C seems right.", "C must be the answer.", "C remains the best answer.",
            "C is most likely.", "C is our answer.", "A and B are out, leaving C as the answer.",
            "This makes C the answer.", "It blocks the wall, and C is the answer.",
            "It blocks the wall; so C is the answer.", "It blocks the wall, because C is the answer.",
            "I doubt it, while C is the answer.", "The wall is lysed, making C the answer.", "C is my choice.",
            "C is the only plausible option.", "C seems to be the best choice.", "Choice C is the best answer.",
            "Statement C is correct.", "Only option C fits.", "Option C fits best.",
            "Of these, (C) is the most appropriate.", "Ceftriaxone (option C) is therefore the right choice."]),
        (None, DRUGS, ["C is the least likely option.", "A and C are right."]),
        (None, POLAR, ["The effect was large. Yes, this seems right."]),
        ("C", CANCER, ["Multiple myeloma (C) is the most likely diagnosis."]),
    ],
    "lower case": [
        ("C", DRUGS, ["c", "c)", "the answer is (c) ceftriaxone"]),
        ("B", DRUGS, ["the answer is b. the drug stops gyrase."]),
    ],
    "letters that are words": [
        (None, DRUGS, ["A patient with arthritis needs treatment.", "The patient has hepatitis B.",
            "The answer is A-fib.", "Cab", "The answer is A+ blood."]),
        ("I", MANY, ["I"]),
        (None, MANY, ["Answer: I am not sure.", "e.g. a wall lysis, i.e. death"]),
        (None, GERMS, ["The answer is C. difficile."]),
    ],
    "letters of other alphabets": [
        ("C", DRUGS, ["Answer: С", "**𝐂**"]),  # Cyrillic Es, mathematical bold
        ("A", DRUGS, ["А", "Ａ"]),  # Cyrillic A, full width
    ],
    "no option": [
        (None, DRUGS, ["F", "Answer: E", "The answer is (Z)."]),
    ],
    "unreal": [
        (None, DRUGS, ["Unless he is allergic, the answer is C.", "Some might say the answer is A.",
            "It is tempting to choose A.", "Many students choose B.", "At first glance, the answer is B.",
            "Is the answer B?", "Could it be C?", "The answer could be C.", "It is unclear whether the answer is C.",
            "Had the drug acted on gyrase, the answer would be B.", "Assuming gonorrhoea, the answer is C.",
            "Suppose the answer is C.", "Otherwise the answer is C.", "Initially the answer is B.",
            "My initial answer is B.", "My first guess is that the answer is B.", "You may think the answer is A.",
            "One would think the answer is A.", "The answer may be A, though C is possible.",
            "One is tempted to say the answer is A.", "It is a mistake to say the answer is A.",
            "Some people choose A.", "Some would choose A.", "At first the answer is A.",
            "One could assume the answer is A.", "One might choose A.", "My first thought is that the answer is B.",
            "My first impression is that the answer is B.", "My initial choice is B.",
            "Were he allergic, the answer would be B.", "The answer might be C.", "The answer can be C."]),
        ("C", DRUGS, ["If he has gonorrhoea, he needs a wall drug, therefore the answer is C.",
            "If he has gonorrhoea, he needs a wall drug, thus the answer is C.",
            "If he has gonorrhoea, he needs a wall drug, hence the answer is C."]),
    ],
    "walk through the options": [
        (None, DRUGS, ["Answer:\nA) Gentamicin\nB) Ciprofloxacin", "A) Gentamicin. Wrong.",
            "Option A: wrong.\nOption B: wrong.\nOption C: right.\nOption D: wrong.",
            "A. Gentamicin binds the 30S subunit.\n\nB. Ciprofloxacin inhibits gyrase.",
            "A) Gentamicin is nephrotoxic, so it is not given.",
            "D. Trimethoprim blocks folate synthesis, C. Ceftriaxone the wall."]),
        ("C", DRUGS, ["A) wrong\nB) wrong\nC) right\nD) wrong\n\nC",
            "C) Ceftriaxone\n\nA) binds 30S\nB) stops gyrase\nD) stops folate",
            "A) wrong\nB) wrong\n\nThe answer is C.", "Answer: C\n\nWhy not B?\nB) Ciprofloxacin\nIt stops gyrase.",
            "Answer:\nC. Ceftriaxone blocks the wall.",
            "Answer:\nC. Ceftriaxone\n\nExplanation:\nA. Gentamicin binds 30S.\nB. Ciprofloxacin stops gyrase."]),
        ("B", DRUGS, ["A) Gentamicin. Incorrect, it binds 30S.\nB) Ciprofloxacin. This is the correct answer."]),
    ],
    "no answer": [
        (None, DRUGS, ["", "..."]),
    ],
    "own text, and what follows it": [
        ("C", DRUGS, ["The answer is C. Ceftriaxone inhibits cell wall synthesis.", "Answer: C: Ceftriaxone 500 mg IM",
            "**Answer:** C. Ceftriaxone 250 mg IM once",
            "The answer is C) Ceftriaxone (a third-generation cephalosporin) given with azithromycin.",
            "The answer is C (ceftriaxone 2 g IV).", "The answer is C [1]."]),
        ("D", DRUGS, ["The correct option is D: Trimethoprim blocks dihydrofolate reductase."]),
        ("B", DRUGS, ["(B) Ciprofloxacin inhibits DNA gyrase, and this explains the tendon rupture."]),
        # As with any other drug: a sentence of its own.
        ("B", DRUGS, ["The answer is B. Ceftriaxone inhibits cell wall synthesis."]),
        ("A", CLOTTING, ["The answer is (A) Factor V Leiden mutation, G1691A."]),
        ("D", ARTICLES, ["D. An abdominal CT would show the aneurysm."]),
        ("C", BACTERIA, ["The answer is C. N. gonorrhoeae (beta-lactamase positive) resists penicillin."]),
        (None, DRUGS, ["The answer is C. Ceftriaxone is not the answer.", "The answer is C. Ceftriaxone is wrong."]),
    ],
    "R1 and its distills": [
        ("C", DRUGS, ["**Answer: C**\n\nCeftriaxone is bactericidal and reaches the cerebrospinal fluid.",
            "### Final Answer:\n\\[\n\\boxed{C}\n\\]",
            "The most appropriate next step is **C) Ceftriaxone**, as it covers the meningococcus.",
            "<answer> C. Ceftriaxone </answer>", "Answer: <C>", "Hence, **Option C** is correct.",
            "**Conclusion:**\nC. Ceftriaxone",
            "So, putting it all together, I'm confident that the correct answer is C.",
            "**Answer:**\n\n**Option C: Ceftriaxone**\n\n**Reasoning:** it crosses the barrier.",
            "The best answer is:\n\n(C) Ceftriaxone – it has excellent CSF penetration.",
            "I'd go with C. Ceftriaxone covers the likely organisms.", "So the answer should be C.",
            "Considering all of the above, C is the most appropriate choice.",
            "The answer is therefore C: ceftriaxone.", "$$\\boxed{\\text{(C) Ceftriaxone 1 g IV}}$$",
            "The answer is \\boxed{C}, ceftriaxone, given at 2 g every 12 hours.",
            "C) Ceftriaxone — the drug of choice for meningococcal meningitis", "Option (C) is the correct answer.",
            "The answer is C.Ceftriaxone", "Answer:C.Ceftriaxone", "Both B and C would work, but the best answer is C.",
            "The answer is C. Ceftriaxone is used even if the patient has a mild penicillin allergy."]),
        ("C", CANCER, ["Given the findings, the most likely diagnosis is **multiple myeloma**.\n\n**Answer: C**"]),
        (None, DRUGS, ["The answer is C.\n\nGentamicin"]),
        ("B", BEDSIDE, ["The answer is B. Order an MRI of the brain to exclude a tumour."]),
        ("D", BEDSIDE, ["The answer is D, none of these."]),
    ],
    "abbreviations and units": [
        ("C", DRUGS, ["The answer is C. 1 g IV is the usual dose.", "Blood group: A. Answer: C",
            "The answer is C at 1 g q.d.", "The answer is C in a dose of 50 mg/kg."]),
        ("D", VITAMINS, ["The answer is D. Vitamin D is low, so calcium falls."]),
        ("D", BLOOD, ["The patient has type O blood. The answer is D."]),
        ("C", BLOOD, ["Type AB"]),
        ("A", GENES, ["The answer is BRCA1.",
            "The answer is A. BRCA1 and BRCA2 differ in the risk of ovarian cancer."]),
        (None, DRUGS, ["The answer is B cell lymphoma."]),
    ],
    "numbers": [
        ("C", COUNTS, ["The answer is C. 3"]),
        ("B", COUNTS, ["The answer is 2."]),
        ("D", COUNTS, ["The answer is (D) 4."]),
        ("A", LABS, ["The answer is A. 7.35"]),
        (None, DRUGS, ["1. Gentamicin\n2. Ciprofloxacin\n3. Ceftriaxone\n4. Trimethoprim"]),
        ("C", DRUGS, ["1. The drug reaches the CSF.\n2. It covers the meningococcus.\n\nAnswer: C"]),
        (None, COUNTS, ["The answer is 5."]),
    ],
    "texts that hold each other": [
        ("B", DIABETES, ["The answer is B. Type 2 diabetes with ketoacidosis is rarer than in type 1 diabetes."]),
        ("A", DIABETES, ["The answer is type 2 diabetes."]),
        (None, DIABETES, ["A. Type 2 diabetes with ketoacidosis"]),
    ],
    "small models": [
        (None, DRUGS, ["The answer is X.", "The answer is X, being one letter.", "The answer is (A), (B), (C) or (D).",
            "A patient with a fever. A patient with a fever. A patient with a fever.", "the the of and C the of",
            "B. Ciprofloxacin\n\nC. Ceftriaxone\n\nD. Trimethoprim", "A. Gentamicin\n\nThe correct answer is X."]),
        ("A", DRUGS, ["A. Gentamicin\nA. Gentamicin\nA. Gentamicin", "The answer is A. Rabies vaccine."]),
        ("C", DRUGS, ["C\n\nExplanation: C\n\nExplanation: C"]),
    ],
    "other languages": [
        ("C", DRUGS, ["Die richtige Antwort ist C.", "Die Antwort lautet C.", "Richtig ist C.", "C ist richtig.",
            "答案是C", "答案：C", "选C", "故选C。", "La respuesta correcta es la opción C.", "A resposta correta é C.",
            "La risposta corretta è la C.", "الإجابة الصحيحة هي C", "Правильный ответ: C", "正解はCです。",
            "La bonne réponse est la réponse C.", "A resposta correta é a letra C.", "因此应选C。", "选项C正确。",
            "정답은 C입니다.", "Jawaban: C", "Het juiste antwoord is C.", "C es la respuesta correcta.",
            "C ist die richtige Antwort.", "C选项正确。", "**Risposta corretta: C**", "Die richtige Lösung ist C."]),
        (None, DRUGS, ["Die richtige Antwort ist nicht B.", "选项B错误。", "如果患者过敏，答案是B。",
            "我不认为答案是B。", "Je ne pense pas que la réponse est B.",
            "Die Antwort ist C, wenn er nicht allergisch ist."]),
        ("C", ZH, ["答案为：C. 头孢曲松"]),
        ("A", DRUGS, ["La réponse correcte est A.", "A resposta correta é a alternativa A.",
            "La risposta corretta è A."]),
    ],
    "taken back or conditional": [
        ("D", DRUGS, ["The answer is C. Ceftriaxone, however, is not right. The answer is D."]),
        (None, DRUGS, ["The answer is C. C is wrong.",
            "The answer would be C. Ceftriaxone if the patient were not allergic.",
            "The answer is not C. Ceftriaxone inhibits cell wall synthesis.",
            "The answer is C. Ceftriaxone is incorrect for Listeria, but Listeria is unlikely.",
            "Is it C. Ceftriaxone inhibits the wall?"]),
        ("C", DRUGS, ["The answer is C. Not gentamicin."]),
    ],
    "why the others are wrong": [
        ("C", DRUGS, ["The answer is C. Gentamicin, ciprofloxacin and trimethoprim do not reach the CSF.",
            "The answer is C, not gentamicin (A), which is nephrotoxic.",
            "C is correct. A is incorrect, as are B and D.", "A, B and D are incorrect; C. Ceftriaxone is correct."]),
    ],
    "instruction echoes": [
        (None, DRUGS, ["End with one line: The answer is (A), (B), (C) or (D).", "The answer is ()."]),
        ("C", DRUGS, ["The answer is (C) or (C).", "The answer is (C"]),
    ],
}  # fmt: skip
CASES = [
    pytest.param(f"Let me think. The answer is D.\n</think>\n\n{reply}", letter, options, id=f"{kind}-{letter}-{reply}")
    for kind, rows in TABLE.items()
    for letter, options, replies in rows
    for reply in replies
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
