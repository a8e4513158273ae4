"""Longer replies and other options, whose letters were decided by hand before the scorer saw them."""

import pytest

from helpers.scoring import extract_choice

DRUGS = {"A": "Gentamicin", "B": "Ciprofloxacin", "C": "Ceftriaxone", "D": "Trimethoprim"}
CANCER = {
    "A": "Acute myeloid leukaemia",
    "B": "Iron deficiency anaemia",
    "C": "Multiple myeloma",
    "D": "Waldenström macroglobulinaemia",
}
CLOTTING = {
    "A": "Factor V Leiden",
    "B": "Protein C deficiency",
    "C": "Antithrombin III deficiency",
    "D": "Protein S deficiency",
}
VITAMINS = {"A": "Vitamin A", "B": "Vitamin B12", "C": "Vitamin C", "D": "Vitamin D"}
BLOOD = {"A": "Type A", "B": "Type B", "C": "Type AB", "D": "Type O"}
NESTED = {
    "A": "Type 2 diabetes",
    "B": "Type 2 diabetes with ketoacidosis",
    "C": "Type 1 diabetes",
    "D": "Diabetes insipidus",
}
GERMS = {"A": "E. coli", "B": "S. aureus", "C": "N. gonorrhoeae (beta-lactamase positive)", "D": "C. difficile"}
COUNTS = {"A": "1", "B": "2", "C": "3", "D": "4"}
LABS = {"A": "7.35", "B": "7.45", "C": "7.35 to 7.45", "D": "24 mmol/L"}
ARTICLES = {
    "A": "A single dose of ceftriaxone",
    "B": "Intravenous fluids",
    "C": "I.V. vancomycin",
    "D": "An abdominal CT",
}
POLAR = {"A": "yes", "B": "no", "C": "maybe"}
GENES = {"A": "BRCA1", "B": "BRCA2", "C": "TP53", "D": "APC"}
ZH = {"A": "庆大霉素", "B": "环丙沙星", "C": "头孢曲松", "D": "甲氧苄啶"}
BEDSIDE = {
    "A": "Start insulin and give 0.9% saline",
    "B": "Order an MRI of the brain",
    "C": "Reassurance",
    "D": "None of these",
}

# Kind of reply -> (what follows the thought, the letter that a careful reader writes down, the options if not DRUGS).
REPLIES = {
    "own text, and what follows it": [
        ("The answer is C. Ceftriaxone inhibits cell wall synthesis.", "C"),
        ("Answer: C: Ceftriaxone 500 mg IM", "C"),
        ("**Answer:** C. Ceftriaxone 250 mg IM once", "C"),
        ("The correct option is D: Trimethoprim blocks dihydrofolate reductase.", "D"),
        ("(B) Ciprofloxacin inhibits DNA gyrase, and this explains the tendon rupture.", "B"),
        ("The answer is C) Ceftriaxone (a third-generation cephalosporin) given with azithromycin.", "C"),
        ("The answer is (A) Factor V Leiden mutation, G1691A.", "A", CLOTTING),
        ("The answer is C (ceftriaxone 2 g IV).", "C"),
        ("The answer is C [1].", "C"),
        ("D. An abdominal CT would show the aneurysm.", "D", ARTICLES),
        ("The answer is C. N. gonorrhoeae (beta-lactamase positive) resists penicillin.", "C", GERMS),
        ("The answer is C. Ceftriaxone is not the answer.", None),
        ("The answer is C. Ceftriaxone is wrong.", None),
        (
            "The answer is B. Ceftriaxone inhibits cell wall synthesis.",
            "B",
        ),  # as with any other drug: a sentence of its own
    ],
    "R1 and its distills": [
        ("**Answer: C**\n\nCeftriaxone is bactericidal and reaches the cerebrospinal fluid.", "C"),
        ("### Final Answer:\n\\[\n\\boxed{C}\n\\]", "C"),
        ("The most appropriate next step is **C) Ceftriaxone**, as it covers the meningococcus.", "C"),
        ("<answer> C. Ceftriaxone </answer>", "C"),
        ("Answer: <C>", "C"),
        ("Given the findings, the most likely diagnosis is **multiple myeloma**.\n\n**Answer: C**", "C", CANCER),
        ("Hence, **Option C** is correct.", "C"),
        ("**Conclusion:**\nC. Ceftriaxone", "C"),
        ("So, putting it all together, I'm confident that the correct answer is C.", "C"),
        ("**Answer:**\n\n**Option C: Ceftriaxone**\n\n**Reasoning:** it crosses the barrier.", "C"),
        ("The best answer is:\n\n(C) Ceftriaxone – it has excellent CSF penetration.", "C"),
        ("I'd go with C. Ceftriaxone covers the likely organisms.", "C"),
        ("So the answer should be C.", "C"),
        ("Considering all of the above, C is the most appropriate choice.", "C"),
        ("The answer is therefore C: ceftriaxone.", "C"),
        ("$$\\boxed{\\text{(C) Ceftriaxone 1 g IV}}$$", "C"),
        ("The answer is \\boxed{C}, ceftriaxone, given at 2 g every 12 hours.", "C"),
        ("C) Ceftriaxone — the drug of choice for meningococcal meningitis", "C"),
        ("Option (C) is the correct answer.", "C"),
        ("The answer is C.Ceftriaxone", "C"),
        ("Answer:C.Ceftriaxone", "C"),
        ("The answer is C.\n\nGentamicin", None),
        ("Both B and C would work, but the best answer is C.", "C"),
        ("The answer is C. Ceftriaxone is used even if the patient has a mild penicillin allergy.", "C"),
        ("The answer is B. Order an MRI of the brain to exclude a tumour.", "B", BEDSIDE),
        ("The answer is D, none of these.", "D", BEDSIDE),
    ],
    "labels": [
        ("Ans. C", "C"),
        ("ANS C", "C"),
        ("Correct: C", "C"),
        ("Response: C", "C"),
        ("Selected option: C", "C"),
        ("My choice: C", "C"),
        ("Solution: C", "C"),
        ("Diagnosis: C", "C", CANCER),
        ("| **Answer** | **C** |", "C"),
        ("Answer: C?", None),
    ],
    "subject": [
        ("Choice C is the best answer.", "C"),
        ("Statement C is correct.", "C"),
        ("Only option C fits.", "C"),
        ("Option C fits best.", "C"),
        ("Of these, (C) is the most appropriate.", "C"),
        ("Ceftriaxone (option C) is therefore the right choice.", "C"),
        ("Multiple myeloma (C) is the most likely diagnosis.", "C", CANCER),
    ],
    "abbreviations and units": [
        ("The answer is C. 1 g IV is the usual dose.", "C"),
        ("The answer is D. Vitamin D is low, so calcium falls.", "D", VITAMINS),
        ("The patient has type O blood. The answer is D.", "D", BLOOD),
        ("Type AB", "C", BLOOD),
        ("Blood group: A. Answer: C", "C"),
        ("The answer is C at 1 g q.d.", "C"),
        ("The answer is C in a dose of 50 mg/kg.", "C"),
        ("The answer is BRCA1.", "A", GENES),
        ("The answer is A. BRCA1 and BRCA2 differ in the risk of ovarian cancer.", "A", GENES),
        ("The answer is B cell lymphoma.", None),
    ],
    "numbers": [
        ("The answer is C. 3", "C", COUNTS),
        ("The answer is 2.", "B", COUNTS),
        ("The answer is (D) 4.", "D", COUNTS),
        ("The answer is A. 7.35", "A", LABS),
        ("1. Gentamicin\n2. Ciprofloxacin\n3. Ceftriaxone\n4. Trimethoprim", None),
        ("1. The drug reaches the CSF.\n2. It covers the meningococcus.\n\nAnswer: C", "C"),
        ("The answer is 5.", None, COUNTS),
    ],
    "texts that hold each other": [
        ("The answer is B. Type 2 diabetes with ketoacidosis is rarer than in type 1 diabetes.", "B", NESTED),
        ("The answer is type 2 diabetes.", "A", NESTED),
        ("A. Type 2 diabetes with ketoacidosis", None, NESTED),
    ],
    "polar": [
        ("Yes, the answer is yes.", "A", POLAR),
        ("Answer: A. No.", None, POLAR),
        ("Final decision: yes", "A", POLAR),
        ("In short: no.", "B", POLAR),
    ],
    "small models": [
        ("The answer is X.", None),
        ("The answer is X, being one letter.", None),
        ("The answer is (A), (B), (C) or (D).", None),
        ("A. Gentamicin\nA. Gentamicin\nA. Gentamicin", "A"),
        ("A patient with a fever. A patient with a fever. A patient with a fever.", None),
        ("the the of and C the of", None),
        ("B. Ciprofloxacin\n\nC. Ceftriaxone\n\nD. Trimethoprim", None),
        ("The answer is A. Rabies vaccine.", "A"),
        ("A. Gentamicin\n\nThe correct answer is X.", None),
        ("C\n\nExplanation: C\n\nExplanation: C", "C"),
    ],
    "other languages": [
        ("Die richtige Antwort ist C.", "C"),
        ("Die Antwort lautet C.", "C"),
        ("Richtig ist C.", "C"),
        ("Die richtige Antwort ist nicht B.", None),
        ("C ist richtig.", "C"),
        ("答案是C", "C"),
        ("答案：C", "C"),
        ("选C", "C"),
        ("故选C。", "C"),
        ("答案为：C. 头孢曲松", "C", ZH),
        ("La respuesta correcta es la opción C.", "C"),
        ("A resposta correta é C.", "C"),
        ("La risposta corretta è la C.", "C"),
        ("الإجابة الصحيحة هي C", "C"),
        ("Правильный ответ: C", "C"),
        ("正解はCです。", "C"),
        ("La bonne réponse est la réponse C.", "C"),
        ("La réponse correcte est A.", "A"),
        ("A resposta correta é a alternativa A.", "A"),
        ("A resposta correta é a letra C.", "C"),
        ("La risposta corretta è A.", "A"),
        ("因此应选C。", "C"),
        ("选项C正确。", "C"),
        ("选项B错误。", None),
        ("如果患者过敏，答案是B。", None),
        ("정답은 C입니다.", "C"),
        ("Jawaban: C", "C"),
        ("Het juiste antwoord is C.", "C"),
        ("C es la respuesta correcta.", "C"),
        ("C ist die richtige Antwort.", "C"),
        ("我不认为答案是B。", None),
        ("C选项正确。", "C"),
        ("Je ne pense pas que la réponse est B.", None),
        ("Die Antwort ist C, wenn er nicht allergisch ist.", None),
        ("**Risposta corretta: C**", "C"),
        ("Die richtige Lösung ist C.", "C"),
    ],
    "walks with own texts": [
        ("A. Gentamicin binds the 30S subunit.\n\nB. Ciprofloxacin inhibits gyrase.", None),
        ("A) Gentamicin is nephrotoxic, so it is not given.", None),
        ("Answer:\nC. Ceftriaxone blocks the wall.", "C"),
        ("Answer:\nC. Ceftriaxone\n\nExplanation:\nA. Gentamicin binds 30S.\nB. Ciprofloxacin stops gyrase.", "C"),
        ("D. Trimethoprim blocks folate synthesis, C. Ceftriaxone the wall.", None),
    ],
    "taken back or conditional": [
        ("The answer is C. Ceftriaxone, however, is not right. The answer is D.", "D"),
        ("The answer is C. C is wrong.", None),
        ("The answer would be C. Ceftriaxone if the patient were not allergic.", None),
        ("The answer is not C. Ceftriaxone inhibits cell wall synthesis.", None),
        ("The answer is C. Ceftriaxone is incorrect for Listeria, but Listeria is unlikely.", None),
        ("Is it C. Ceftriaxone inhibits the wall?", None),
        ("The answer is C. Not gentamicin.", "C"),
    ],
    "why the others are wrong": [
        ("The answer is C. Gentamicin, ciprofloxacin and trimethoprim do not reach the CSF.", "C"),
        ("The answer is C, not gentamicin (A), which is nephrotoxic.", "C"),
        ("C is correct. A is incorrect, as are B and D.", "C"),
        ("A, B and D are incorrect; C. Ceftriaxone is correct.", "C"),
    ],
    "contradictions": [
        ("The answer is D. Ceftriaxone 1 g IV.", None),
        ("D. Ceftriaxone inhibits cell wall synthesis.", None),
        ("The answer is D. Ceftriaxone", None),
        ("The answer is D. Ceftriaxone, which is a cephalosporin.", None),
        ("The answer is C. Vitamin D.", None, VITAMINS),
    ],
    "instruction echoes": [
        ("End with one line: The answer is (A), (B), (C) or (D).", None),
        ("The answer is (C) or (C).", "C"),
        ("The answer is ().", None),
        ("The answer is (C", "C"),
    ],
}
CASES = [
    pytest.param(case[0], case[1], (*case, DRUGS)[2], id=f"{kind}-{i}")
    for kind, cases in REPLIES.items()
    for i, case in enumerate(cases, 1)
]


@pytest.mark.parametrize(("reply", "expected", "options"), CASES)
def test_a_reply_is_read_as_by_a_careful_reader(reply, expected, options):
    assert extract_choice(f"Perhaps B.\n</think>\n\n{reply}", options) == expected
