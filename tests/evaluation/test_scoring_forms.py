"""Replies whose letters were decided by hand before the scorer saw them, and what must not change a letter."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.evaluation.scoring import extract_choice

DRUGS = {"A": "Gentamicin", "B": "Ciprofloxacin", "C": "Ceftriaxone", "D": "Trimethoprim"}
CANCER = {
    "A": "Acute myeloid leukaemia",
    "B": "Iron deficiency anaemia",
    "C": "Multiple myeloma",
    "D": "Waldenström macroglobulinaemia",
}
DOSES = {
    "A": "Ceftriaxone 1 g IV",
    "B": "Ceftriaxone 250 mg IM",
    "C": "Azithromycin 1 g orally",
    "D": "Doxycycline 100 mg b.d.",
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
FIVE = {"A": "Aspirin", "B": "Bisoprolol", "C": "Clopidogrel", "D": "Digoxin", "E": "Enalapril"}
ZH = {"A": "庆大霉素", "B": "环丙沙星", "C": "头孢曲松", "D": "甲氧苄啶"}
DE = {"A": "Eisenmangelanämie", "B": "Perniziöse Anämie", "C": "Multiples Myelom", "D": "Keine der genannten"}
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
        ("The answer is C. Multiple myeloma is characterised by CRAB.", "C", CANCER),
        ("Answer: C: Ceftriaxone 500 mg IM", "C"),
        ("The answer is (C) Ceftriaxone 1 g IV.", "C"),
        ("**Answer:** C. Ceftriaxone 250 mg IM once", "C"),
        ("**Answer: C. Ceftriaxone** inhibits transpeptidases and so the last step of cell wall synthesis.", "C"),
        ("The correct answer is **C) Ceftriaxone** 1 g intravenously every 24 hours.", "C"),
        ("The answer is C. Ceftriaxone, which crosses the inflamed meninges well.", "C"),
        ("The correct option is D: Trimethoprim blocks dihydrofolate reductase.", "D"),
        ("C. Ceftriaxone inhibits cell wall synthesis.", "C"),
        ("(B) Ciprofloxacin inhibits DNA gyrase, and this explains the tendon rupture.", "B"),
        ("The answer is D. Waldenström macroglobulinaemia secretes IgM, multiple myeloma IgG or IgA.", "D", CANCER),
        ("The answer is C) Ceftriaxone (a third-generation cephalosporin) given with azithromycin.", "C"),
        ("Final answer: A. Ceftriaxone 1 g IV q24h for 7 days", "A", DOSES),
        ("The answer is B. Ceftriaxone 250 mg IM is enough for uncomplicated infection.", "B", DOSES),
        ("The answer is D. Doxycycline 100 mg b.d. for seven days covers Chlamydia.", "D", DOSES),
        ("The answer is (A) Factor V Leiden mutation, G1691A.", "A", CLOTTING),
        ("The answer is B. Protein C deficiency causes warfarin-induced skin necrosis.", "B", CLOTTING),
        ("So the answer is C - Ceftriaxone because it reaches the CSF.", "C"),
        ("The answer is C, ceftriaxone 2 g every 12 hours.", "C"),
        ("The answer is C (ceftriaxone 2 g IV).", "C"),
        ("The answer is C [1].", "C"),
        ("The answer is A. A single dose of ceftriaxone treats gonorrhoea.", "A", ARTICLES),
        ("The answer is C. I.V. vancomycin covers MRSA.", "C", ARTICLES),
        ("D. An abdominal CT would show the aneurysm.", "D", ARTICLES),
        ("The answer is C. N. gonorrhoeae (beta-lactamase positive) resists penicillin.", "C", GERMS),
        ("The answer is D. C. difficile forms spores.", "D", GERMS),
        ("The answer is B. S. aureus is coagulase positive.", "B", GERMS),
        ("Option C: Ceftriaxone has the longest half-life of the cephalosporins, so this is the answer.", "C"),
        ("The answer is C. Ceftriaxone is not the answer.", None),
        ("The answer is C. Ceftriaxone is wrong.", None),
        (
            "The answer is B. Ceftriaxone inhibits cell wall synthesis.",
            "B",
        ),  # as with any other drug: a sentence of its own
        ("The answer is A. Ceftriaxone 250 mg IM once.", None, DOSES),
        ("The answer is C. Ceftriaxone or D. Trimethoprim could both be given.", None),
        ("The answer is C) Ceftriaxone and B) Ciprofloxacin.", None),
    ],
    "R1 and its distills": [
        ("**Answer: C**\n\nCeftriaxone is bactericidal and reaches the cerebrospinal fluid.", "C"),
        ("### Final Answer\n**C. Ceftriaxone**", "C"),
        ("### Final Answer:\n\\[\n\\boxed{C}\n\\]", "C"),
        ("**Final Answer**\n\n\\boxed{\\text{C. Ceftriaxone}}", "C"),
        ("The organism is a Gram-negative diplococcus.\n\n**The correct answer is C. Ceftriaxone.**", "C"),
        ("The most appropriate next step is **C) Ceftriaxone**, as it covers the meningococcus.", "C"),
        (
            "**Step-by-Step Explanation:**\n\n1. **Presentation:** fever and neck stiffness.\n2. "
            "**Gram stain:** diplococci.\n3. **Treatment:** a third-generation cephalosporin.\n\n"
            "**Answer:** C. Ceftriaxone",
            "C",
        ),
        (
            "The answer is **C**.\n\n**Explanation:**\n- **A. Gentamicin**: poor CSF penetration.\n- **B. "
            "Ciprofloxacin**: for prophylaxis.\n- **C. Ceftriaxone**: the drug of choice.\n- **D. "
            "Trimethoprim**: not used.",
            "C",
        ),
        (
            "- **A. Gentamicin**: Incorrect. It does not reach the CSF.\n- **B. Ciprofloxacin**: Incorrect. "
            "It is for prophylaxis.\n- **C. Ceftriaxone**: Correct. It is the drug of choice.\n- **D. "
            "Trimethoprim**: Incorrect.\n\n**Conclusion:** The correct answer is **C. Ceftriaxone**.",
            "C",
        ),
        (
            "**Option Analysis:**\n- **A:** no.\n- **B:** no.\n- **C:** yes, it blocks the wall.\n"
            "- **D:** no.\n\nThus, the best choice is **C**.",
            "C",
        ),
        (
            "The patient most likely has gonorrhoea. The treatment of choice is ceftriaxone.\n\n"
            "**Answer:** \\(\\boxed{C}\\)",
            "C",
        ),
        ("</answer>\nThe answer is C", "C"),
        ("<answer> C. Ceftriaxone </answer>", "C"),
        ("Answer: <C>", "C"),
        (
            "The answer is C.\n\nOption A is incorrect because gentamicin is nephrotoxic. "
            "Option B is incorrect because of resistance. "
            "Option D is incorrect because it is bacteriostatic.",
            "C",
        ),
        ("**Correct Answer: (C)**", "C"),
        ("**Answer:** The correct answer is **C: Ceftriaxone**.", "C"),
        ("Given the findings, the most likely diagnosis is **multiple myeloma**.\n\n**Answer: C**", "C", CANCER),
        ("Therefore, the answer is **C. Multiple myeloma**, and a serum electrophoresis should follow.", "C", CANCER),
        ("Hence, **Option C** is correct.", "C"),
        ("**Conclusion:**\nC. Ceftriaxone", "C"),
        ("---\n\n**Final Answer:** **(C)** Ceftriaxone\n\n---", "C"),
        ("#### Answer\n\n**(C) Ceftriaxone**\n\n#### Rationale\n\nIt blocks the transpeptidase.", "C"),
        ("So, putting it all together, I'm confident that the correct answer is C.", "C"),
        ("I'm torn between B and C.", None),
        ("**Answer:** B or C, depending on local resistance.", None),
        (
            "**Explanation:**\n\nThe patient has meningitis.\n\n- Gentamicin does not cross the barrier.\n"
            "- Ciprofloxacin is for contacts.\n\n**Therefore, the correct answer is C. Ceftriaxone.**",
            "C",
        ),
        (
            "The correct answer is **C. Ceftriaxone**.\n\nHere's the breakdown:\n"
            "1. **A. Gentamicin** – poor penetration.\n2. **B. Ciprofloxacin** – prophylaxis only.\n"
            "3. **C. Ceftriaxone** – first line.\n4. **D. Trimethoprim** – not used.\n\nFinal answer: **C**",
            "C",
        ),
        (
            "Based on the findings, the most appropriate treatment is:\n\n**C. Ceftriaxone**\n\n"
            "This is because it crosses the barrier.",
            "C",
        ),
        ("**Answer:**\n\n**Option C: Ceftriaxone**\n\n**Reasoning:** it crosses the barrier.", "C"),
        ("The best answer is:\n\n(C) Ceftriaxone – it has excellent CSF penetration.", "C"),
        ("The correct choice is (C) because A, B, and D are less effective.", "C"),
        ("I'd go with C. Ceftriaxone covers the likely organisms.", "C"),
        ("So the answer should be C.", "C"),
        ("The answer: **C) Ceftriaxone**. Not gentamicin, since it is nephrotoxic.", "C"),
        ("Considering all of the above, C is the most appropriate choice.", "C"),
        ("The answer is therefore C: ceftriaxone.", "C"),
        ("\\[\n\\boxed{C. Ceftriaxone}\n\\]", "C"),
        ("$$\\boxed{\\text{(C) Ceftriaxone 1 g IV}}$$", "C"),
        ("**Step 1:** Fever.\n**Step 2:** Gram stain.\n\n\\boxed{C}", "C"),
        ("The answer is \\boxed{C}, ceftriaxone, given at 2 g every 12 hours.", "C"),
        ("Answer: C) Ceftriaxone. Explanation: Ceftriaxone binds PBPs, whereas gentamicin binds 30S.", "C"),
        ("The answer is (C) Ceftriaxone; gentamicin (A) is nephrotoxic.", "C"),
        ("C) Ceftriaxone — the drug of choice for meningococcal meningitis", "C"),
        ("**(C)** Ceftriaxone is the drug of choice for meningococcal meningitis.", "C"),
        ("Option (C) is the correct answer.", "C"),
        ("The correct answer is option (C), ceftriaxone.", "C"),
        ("The answer is C.) Ceftriaxone", "C"),
        ("The answer is C.Ceftriaxone", "C"),
        ("Answer:C.Ceftriaxone", "C"),
        ("The correct answer is C.\nCeftriaxone crosses the inflamed meninges.", "C"),
        ("The answer is C.\n\nCeftriaxone", "C"),
        ("The answer is C.\n\nGentamicin", None),
        ("The answer is (B).\n\n**B. Ciprofloxacin** is used for prophylaxis, ceftriaxone for treatment.", "B"),
        ("Both B and C would work, but the best answer is C.", "C"),
        ("My answer is C, though D is a close second.", "C"),
        ("The answer is C. If the patient is allergic, chloramphenicol is used.", "C"),
        ("The answer is C. Ceftriaxone is used even if the patient has a mild penicillin allergy.", "C"),
        ("The answer is A. Start insulin and give 0.9% saline, then potassium.", "A", BEDSIDE),
        ("The answer is B. Order an MRI of the brain to exclude a tumour.", "B", BEDSIDE),
        ("The answer is C. Reassurance is enough.", "C", BEDSIDE),
        ("The answer is D. None of these is indicated.", "D", BEDSIDE),
        ("The answer is D, none of these.", "D", BEDSIDE),
        ("Order an MRI of the brain.", "B", BEDSIDE),
        ("The next step is to order an MRI of the brain, so the answer is B.", "B", BEDSIDE),
    ],
    "labels": [
        ("Ans: (c)", "C"),
        ("Ans. C", "C"),
        ("ANS C", "C"),
        ("Correct answer — C", "C"),
        ("Answer: option c", "C"),
        ("Answer:C", "C"),
        ("Answer:(C)", "C"),
        ("Answer is C", "C"),
        ("answer is: C) ceftriaxone", "C"),
        ("Correct: C", "C"),
        ("Response: C", "C"),
        ("Selected option: C", "C"),
        ("My choice: C", "C"),
        ("Solution: C", "C"),
        ("Choice: C. Ceftriaxone", "C"),
        ("Diagnosis: C", "C", CANCER),
        ("| Question | Answer |\n|---|---|\n| 1 | C |", None),  # a reader would say C; such tables are not read
        ("| **Answer** | **C** |", "C"),
        ("Q: Which drug?\nA: C", None),
        ("Answer: C / D", None),
        ("Answer: C?", None),
        ("Answer: C (not D)", "C"),
        ("Answer: C, i.e. ceftriaxone", "C"),
        ("Answer: D. None of the options A to C fit.", None),  # D is trimethoprim
    ],
    "subject": [
        ("Option C is correct because it inhibits the transpeptidase.", "C"),
        ("Option C (Ceftriaxone) is the correct answer because it reaches the CSF.", "C"),
        ("C) Ceftriaxone is the correct answer.", "C"),
        ("C. Ceftriaxone is the correct choice here.", "C"),
        ("Choice C is the best answer.", "C"),
        ("Statement C is correct.", "C"),
        ("Only option C fits.", "C"),
        ("Option C fits best.", "C"),
        ("Option C is incorrect because it is not given by mouth.", None),
        ("Options B and C are both reasonable, but C is better.", None),
        ("Of these, (C) is the most appropriate.", "C"),
        ("Ceftriaxone (option C) is therefore the right choice.", "C"),
        ("Multiple myeloma (C) is the most likely diagnosis.", "C", CANCER),
        ("Vitamin C deficiency is the most likely diagnosis.", None),
        ("Factor V Leiden is the most common inherited thrombophilia, so it is the answer.", None, CLOTTING),
    ],
    "abbreviations and units": [
        ("The answer is C. 1 g IV is the usual dose.", "C"),
        ("The answer is vitamin C.", "C", VITAMINS),
        ("The answer is C. Vitamin C is needed for collagen hydroxylation.", "C", VITAMINS),
        ("The answer is D. Vitamin D is low, so calcium falls.", "D", VITAMINS),
        ("The answer is vitamin D, option C.", None, VITAMINS),
        ("The answer is B. Vitamin B12 deficiency raises methylmalonic acid.", "B", VITAMINS),
        ("The answer is A. Type A blood carries anti-B.", "A", BLOOD),
        ("The patient has type O blood. The answer is D.", "D", BLOOD),
        ("Type AB", "C", BLOOD),
        ("The answer is type B.", "B", BLOOD),
        ("The answer is C because hepatitis B and group B strep are excluded.", "C"),
        ("She carries group B strep, and factor V is normal.", None),
        ("Blood group: A. Answer: C", "C"),
        ("Child-Pugh C cirrhosis is present, so the answer is B.", "B"),
        ("Stanford type A dissection needs surgery. The answer is B.", "B"),
        ("The answer is A. T3 N1 M0, i.e. stage III B.", "A"),
        ("The answer is C at 1 g q.d.", "C"),
        ("The answer is C in a dose of 50 mg/kg.", "C"),
        ("The answer is BRCA1.", "A", GENES),
        ("The answer is A. BRCA1 and BRCA2 differ in the risk of ovarian cancer.", "A", GENES),
        ("The answer is B cell lymphoma.", None),
        ("The answer is D-dimer.", None),
        ("Answer: E. Enalapril 5 mg o.d.", "E", FIVE),
        ("The answer is A. Aspirin 300 mg, then 75 mg/day with clopidogrel.", "A", FIVE),
    ],
    "numbers": [
        ("The answer is C. 3", "C", COUNTS),
        ("Answer: C. 3 of the four criteria are met.", "C", COUNTS),
        ("The answer is 2.", "B", COUNTS),
        ("The answer is (D) 4.", "D", COUNTS),
        ("The answer is (D) 3.", None, COUNTS),
        ("The answer is C. 7.35 to 7.45 is the normal range.", "C", LABS),
        ("The answer is A. 7.35", "A", LABS),
        ("The answer is 7.35 to 7.45.", "C", LABS),
        ("The answer is D: 24 mmol/L (normal 22-26).", "D", LABS),
        ("1. Gentamicin\n2. Ciprofloxacin\n3. Ceftriaxone\n4. Trimethoprim", None),
        ("The answer is option 3.", None),
        ("The answer is option 2.", None),
        ("1. The drug reaches the CSF.\n2. It covers the meningococcus.\n\nAnswer: C", "C"),
        ("1. C. Ceftriaxone", "C"),
        ("The answer to question 2 is C.", "C"),
        ("The answer is 5.", None, COUNTS),
    ],
    "texts that hold each other": [
        ("The answer is B. Type 2 diabetes with ketoacidosis is rarer than in type 1 diabetes.", "B", NESTED),
        ("The answer is A. Type 2 diabetes is treated with metformin.", "A", NESTED),
        ("The answer is type 2 diabetes.", "A", NESTED),
        ("The answer is type 2 diabetes with ketoacidosis.", "B", NESTED),
        ("A. Type 2 diabetes with ketoacidosis", None, NESTED),
        ("The answer is C) Type 1 diabetes, not type 2 diabetes.", "C", NESTED),
        ("The answer is C. Type 1 diabetes, unlike type 2 diabetes, is autoimmune.", "C", NESTED),
    ],
    "polar": [
        ("Yes, the answer is yes.", "A", POLAR),
        ("**Answer: Yes**", "A", POLAR),
        ("The answer is A. Yes, the trial showed a benefit.", "A", POLAR),
        ("Answer: B. No significant difference was found.", "B", POLAR),
        ("The answer is (C) maybe, given the small sample.", "C", POLAR),
        ("Answer: A (yes)", "A", POLAR),
        ("Answer: A. No.", None, POLAR),
        ("Final decision: yes", "A", POLAR),
        ("In short: no.", "B", POLAR),
    ],
    "small models": [
        ("The answer is X.", None),
        ("The answer is X, being one letter.", None),
        ("The answer is A, B, C, or D.", None),
        ("The answer is (A), (B), (C) or (D).", None),
        ("The answer is the patient has a history of hypertension.", None),
        ("A. Gentamicin\nB. Ciprofloxacin\nC. Ceftriaxone\nD. Trimethoprim\n\nThe answer is C.", "C"),
        ("A. Gentamicin\nA. Gentamicin\nA. Gentamicin", "A"),
        ("Answer: The correct answer is", None),
        ("A patient with a fever. A patient with a fever. A patient with a fever.", None),
        ("The answer is: The answer is: The answer is:", None),
        ("the the of and C the of", None),
        ("The correct answer is A: The correct answer is B: The correct answer is C:", "C"),
        ("B. Ciprofloxacin\n\nC. Ceftriaxone\n\nD. Trimethoprim", None),
        ("The answer is C.\n\nThe answer is C.\n\nThe answer is", "C"),
        ("Question: Which drug?\nA. Gentamicin\nB. Ciprofloxacin\nAnswer: B. Ciprofloxacin", "B"),
        ("The answer is A. Rabies vaccine.", "A"),
        ("A. Gentamicin\n\nThe answer is (letter)", "A"),
        ("A. Gentamicin\n\nThe correct answer is X.", None),
        ("The answer is C. C. C. C. C.", "C"),
        ("The answer is (A) Gentamicin. The answer is (B) Ciprofloxacin. The answer is", "B"),
        ("C\n\nExplanation: C\n\nExplanation: C", "C"),
        ("The answer is Gentamicin, Ciprofloxacin, Ceftriaxone and Trimethoprim.", None),
        ("A: Gentamicin\nA: Gentamicin\nB: Ciprofloxacin", None),
    ],
    "other languages": [
        ("Die richtige Antwort ist C.", "C"),
        ("Die Antwort lautet C.", "C"),
        ("Antwort: C", "C"),
        ("Richtig ist C.", "C"),
        ("Die richtige Antwort ist C, weil Ceftriaxon die Zellwandsynthese hemmt.", "C"),
        ("Die richtige Antwort ist C. Multiples Myelom", "C", DE),
        ("Die richtige Antwort ist nicht B.", None),
        ("B ist falsch.", None),
        ("C ist richtig.", "C"),
        ("答案是C", "C"),
        ("答案：C", "C"),
        ("正确答案：C", "C"),
        ("选C", "C"),
        ("故选C。", "C"),
        ("因此，正确答案是C。", "C"),
        ("答案为：C. 头孢曲松", "C", ZH),
        ("答案是（Ｃ）。", "C"),
        ("答案不是B。", None),
        ("不选B。", None),
        ("答案是B或C。", None),
        ("正确答案是B。头孢曲松", None, ZH),
        ("La bonne réponse est C.", "C"),
        ("Réponse : C", "C"),
        ("La réponse correcte est la C.", "C"),
        ("La réponse n'est pas C.", None),
        ("La respuesta correcta es C.", "C"),
        ("Respuesta: C", "C"),
        ("La respuesta correcta es la opción C.", "C"),
        ("La respuesta no es C.", None),
        ("A resposta correta é C.", "C"),
        ("Resposta: letra C", "C"),
        ("A resposta correta não é C.", None),
        ("La risposta corretta è la C.", "C"),
        ("Risposta: C", "C"),
        ("La risposta non è C.", None),
        ("الإجابة الصحيحة هي C", "C"),
        ("Правильный ответ: C", "C"),
        ("正解はCです。", "C"),
        ("정답: C", "C"),
        ("A C.", None),
        ("Die Antwort ist B oder C.", None),
        ("Die korrekte Antwort ist (C) Multiples Myelom.", "C", DE),
        ("Antwort: C) Multiples Myelom, da CRAB-Kriterien vorliegen.", "C", DE),
        ("Wenn er allergisch wäre, wäre die richtige Antwort B.", None),
        ("La bonne réponse est la réponse C.", "C"),
        ("La respuesta correcta es la C, porque la ceftriaxona inhibe la pared.", "C"),
        ("La respuesta correcta es C) Ceftriaxone.", "C"),
        ("La respuesta correcta es B o C.", None),
        ("La réponse correcte est A.", "A"),
        ("A resposta correta é a alternativa A.", "A"),
        ("A resposta correta é a letra C.", "C"),
        ("La risposta corretta è A.", "A"),
        ("答案是A。", "A"),
        ("本题答案选B", "B"),
        ("因此应选C。", "C"),
        ("不应选B。", None),
        ("选项C正确。", "C"),
        ("选项B错误。", None),
        ("正确答案是：**C. 头孢曲松**，因为它能透过血脑屏障。", "C", ZH),
        ("答案：C\n\n解析：A、B、D均不正确。", "C"),
        ("维生素C缺乏导致坏血病。", None),
        ("患者为乙型肝炎，答案是B吗？", None),
        ("答案是头孢曲松。", "C", ZH),
        ("答案是B，不，答案是C。", "C"),
        ("如果患者过敏，答案是B。", None),
        ("정답은 C입니다.", "C"),
        ("Jawaban: C", "C"),
        ("Het juiste antwoord is C.", "C"),
        ("Respuesta final: C", "C"),
        ("Resposta: A", "A"),
        ("Réponse : A, B", None),
        ("C es la respuesta correcta.", "C"),
        ("C ist die richtige Antwort.", "C"),
        ("B est incorrecte.", None),
        ("我不认为答案是B。", None),
        ("选A还是选B？", None),
        ("不知道选A还是选B。", None),
        ("答案可能是B。", None),
        ("综上所述，答案选C。", "C"),
        ("正确答案为C，头孢曲松。", "C", ZH),
        ("C选项正确。", "C"),
        ("Je ne pense pas que la réponse est B.", None),
        ("Ich glaube nicht, dass B richtig ist.", None),
        ("Die Antwort ist C, wenn er nicht allergisch ist.", None),
        ("La respuesta es C si no es alérgico.", None),
        ("La respuesta correcta es **C. Ceftriaxone**, ya que inhibe la síntesis de la pared.", "C"),
        ("La réponse est la C : elle passe la barrière.", "C"),
        ("**Risposta corretta: C**", "C"),
        ("Die richtige Antwort ist **C)**.", "C"),
        ("Die richtige Lösung ist C.", "C"),
    ],
    "walks with own texts": [
        (
            "A. Gentamicin binds the 30S subunit.\nB. Ciprofloxacin inhibits gyrase.\nC. "
            "Ceftriaxone blocks the wall.\nD. Trimethoprim blocks folate.",
            None,
        ),
        ("A. Gentamicin binds the 30S subunit.\n\nB. Ciprofloxacin inhibits gyrase.", None),
        ("A) Gentamicin is nephrotoxic, so it is not given.", None),
        (
            "Option A: Gentamicin is nephrotoxic.\nOption B: Ciprofloxacin is for prophylaxis.\n"
            "Option C: Ceftriaxone reaches the CSF.",
            None,
        ),
        (
            "Let us go through the options. A. Gentamicin binds 30S. B. Ciprofloxacin stops gyrase. C. "
            "Ceftriaxone blocks the wall. D. Trimethoprim blocks folate.",
            None,
        ),
        ("Answer:\nA. Gentamicin binds 30S.\nB. Ciprofloxacin stops gyrase.\nC. Ceftriaxone blocks the wall.", None),
        ("Answer:\nC. Ceftriaxone blocks the wall.", "C"),
        ("Answer:\nC. Ceftriaxone\n\nExplanation:\nA. Gentamicin binds 30S.\nB. Ciprofloxacin stops gyrase.", "C"),
        (
            "### Final Answer\n\n**C. Ceftriaxone** 1 g IV every 24 hours.\n\n### Why not the others\n"
            "- **A**: nephrotoxic\n- **B**: resistance",
            "C",
        ),
        (
            "A. Gentamicin: wrong.\nB. Ciprofloxacin: wrong.\nC. Ceftriaxone: the drug of choice.\nD. "
            "Trimethoprim: wrong.\n\nSo C. Ceftriaxone.",
            "C",
        ),
        ("D. Trimethoprim blocks folate synthesis, C. Ceftriaxone the wall.", None),
        ("A: Gentamicin, B: Ciprofloxacin, C: Ceftriaxone, D: Trimethoprim", None),
    ],
    "taken back or conditional": [
        ("The answer is C. Ceftriaxone, however, is not right. The answer is D.", "D"),
        ("The answer is C. Wait, ceftriaxone is wrong here. The answer is A. Gentamicin is synergistic.", "A"),
        ("The answer is C. C is wrong.", None),
        ("The answer is C: Ceftriaxone 1 g if he is not allergic.", None),
        ("The answer would be C. Ceftriaxone if the patient were not allergic.", None),
        ("It is not true that the answer is C. Ceftriaxone is given.", None),
        ("The answer is not C. Ceftriaxone inhibits cell wall synthesis.", None),
        ("The answer is not C) Ceftriaxone 1 g IV.", None),
        (
            "One might think the answer is C. Ceftriaxone is used for that. But the answer is A. Gentamicin binds 30S.",
            "A",
        ),
        ("The answer is C. Ceftriaxone is not affected by beta-lactamase.", "C"),
        ("The answer is C. Ceftriaxone should not be given with calcium.", "C"),
        ("The answer is C. Ceftriaxone is incorrect for Listeria, but Listeria is unlikely.", None),
        ("Is it C. Ceftriaxone inhibits the wall?", None),
        ("The answer is C. Not gentamicin.", "C"),
        ("I ruled out C. Ceftriaxone is not oral.", None),
        ("The least suitable option is C. Ceftriaxone is parenteral.", None),
        ("The answer is either C. Ceftriaxone or D. Trimethoprim.", None),
    ],
    "why the others are wrong": [
        ("The answer is C. Gentamicin, ciprofloxacin and trimethoprim do not reach the CSF.", "C"),
        ("The answer is C. A is nephrotoxic, B is for prophylaxis and D is oral.", "C"),
        ("The answer is C. Option A is wrong because gentamicin does not reach the CSF.", "C"),
        ("The answer is C, not gentamicin (A), which is nephrotoxic.", "C"),
        ("The answer is C. Gentamicin is nephrotoxic, and ciprofloxacin is for prophylaxis.", "C"),
        (
            "Answer: C\n\nA: Gentamicin is nephrotoxic.\nB: Ciprofloxacin is for prophylaxis.\n"
            "D: Trimethoprim is oral.",
            "C",
        ),
        (
            "**C. Ceftriaxone**\n\n**Why the others are wrong:**\n- **A. Gentamicin** is nephrotoxic.\n"
            "- **B. Ciprofloxacin** is for prophylaxis.\n- **D. Trimethoprim** is oral.",
            "C",
        ),
        ("The correct answer is C. Ceftriaxone. A, B and D are incorrect.", "C"),
        ("C is correct. A is incorrect, as are B and D.", "C"),
        ("A, B and D are incorrect; C. Ceftriaxone is correct.", "C"),
    ],
    "contradictions": [
        ("The answer is D. Ceftriaxone 1 g IV.", None),
        ("The answer is D: ceftriaxone inhibits cell wall synthesis.", None),
        ("The answer is (D) Ceftriaxone inhibits cell wall synthesis.", None),
        ("The answer is D. Ceftriaxone is the correct answer.", None),
        ("D. Ceftriaxone inhibits cell wall synthesis.", None),
        ("The answer is D (ceftriaxone 2 g IV).", None),
        ("The answer is D. Ceftriaxone", None),
        ("The answer is D. Ceftriaxone, which is a cephalosporin.", None),
        ("The answer is C. Vitamin D.", None, VITAMINS),
        ("The answer is A. Type O blood", None, BLOOD),
        ("Answer: A. None of the above", None),
    ],
    "instruction echoes": [
        ("End with one line: The answer is (A), (B), (C) or (D).", None),
        ("The answer is (A), (B), (C) or (D).\n\nThe answer is (B).", "B"),
        ("The answer is (A) Gentamicin, (B) Ciprofloxacin, (C) Ceftriaxone or (D) Trimethoprim.", None),
        ("The answer is (C), (C), (C).", "C"),
        ("The answer is (C) or (C).", "C"),
        ("The answer is ().", None),
        ("The answer is (C", "C"),
        ("The answer is (E).", None),
        ("The answer is (LETTER).", None),
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


@settings(max_examples=500, deadline=None)
@given(options(), st.sampled_from("ABCD"), st.sampled_from(CARRIERS), st.data())
def test_a_letter_stays_with_its_text_a_reason_or_a_closing_sentence(lettered, letter, carrier, data):
    letter_form = data.draw(st.sampled_from(["{}", "({})", *WITH_TEXT]))
    ending = data.draw(st.sampled_from(ENDINGS + AFTER_TEXT * (letter_form in WITH_TEXT)))
    closing = data.draw(st.sampled_from(CLOSINGS))
    reply = carrier.format(letter_form.format(letter, lettered[letter]) + ending) + closing
    assert extract_choice(f"</think>{reply}", lettered) == letter


@settings(max_examples=300, deadline=None)
@given(options(), st.permutations("ABCD"), st.sampled_from(CARRIERS), st.sampled_from(WITH_TEXT))
def test_a_letter_with_another_options_text_is_none(lettered, order, carrier, letter_form):
    letter, other = order[:2]
    reply = carrier.format(letter_form.format(letter, lettered[other])) + "."
    assert extract_choice(f"</think>{reply}", lettered) is None


@settings(max_examples=200, deadline=None)
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


@pytest.mark.parametrize("carrier", ["The answer is ({}).", "The answer is {}.", "The answer is option {}."])
@pytest.mark.parametrize("gap", [" ", "\n\n"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_sentence_on_another_option_takes_no_statement_back(carrier, gap, other):
    """As replies in the form that the question asks for go on. Options of one kind, named in plain sentences."""
    for lettered in (DRUGS, CANCER, VITAMINS, CLOTTING):
        for letter in lettered:
            for one, text in lettered.items():
                if one != letter:
                    reply = carrier.format(letter) + gap + other.format(one, text)
                    assert extract_choice(f"thought</think>{reply}", lettered) == letter, reply
