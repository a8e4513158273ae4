"""Strict scoring: a table of replies written by hand, and the statistics against other code and by simulation."""

import gc
import json
import math
import re
import string
import time
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from helpers.intervals import (
    adjust_holm,
    bootstrap_interval,
    chance,
    compare_paired,
    detectable_difference,
    majority_baseline,
    mean_interval,
    verdict,
    wilson_interval,
)
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
        ("The answer is (C)", "C"),
        ("The answer is (C).", "C"),
        ("The answer is C.", "C"),
        ("the correct choice is C", "C"),
        ("The best answer here is option C.", "C"),
        ("The correct answer to this question is therefore C.", "C"),
        ("The answer would be C.", "C"),
        ("The answer must be D, because the drug has no cell wall target.", "D"),
        ("The answer is C because the wall is lysed; A acts on the ribosome.", "C"),
        ("I would choose B.", "B"),
        ("I'll go with option D.", "D"),
        ("So it's C.", "C"),
        ("Therefore, C.", "C"),
        ("Gonococci lack a capsule. Thus, (C).", "C"),
        ("My final answer is A.", "A"),
        ("This corresponds to option C.", "C"),
        ("If I had to choose, I would say C.", "C"),
        ("There is no doubt that the answer is C.", "C"),
        ("The answer is most likely B.", "B"),
        ("We can rule out the others, which leaves us with D.", "D"),
        ("I am not certain, but the answer is C.", "C"),
        ("The answer is C, even if resistance is rising.", "C"),
        ("The answer: the culture fits gonococci, so the answer is C.", "C"),
        ("It must be D.", "D"),
        ("It has to be C.", "C"),
        ("That would be C.", "C"),
        ("We can conclude that the answer is C.", "C"),
        ("We conclude C.", "C"),
        ("I think C.", "C"),
        ("I'd pick C.", "C"),
        ("In conclusion, C.", "C"),
        ("Conclusion: C", "C"),
        ("From the given options, the correct one is C.", "C"),
        ("The option that fits best is C.", "C"),
        ("The answer to question 1 is C.", "C"),
        ("The answer is the letter C.", "C"),
        ("The answer is C, given that the wall is the target.", "C"),
        ("The answer is C, as A and B act elsewhere.", "C"),
        ("The answer is C since B is a quinolone.", "C"),
        ("The answer is C which blocks the wall.", "C"),
        ("The answer is C although A is cheaper.", "C"),
        ("The answer is C based on the culture.", "C"),
        ("The answer is C here.", "C"),
        ("The answer is C in this case.", "C"),
        ("The answer is C because, if the wall is weak, the cell bursts.", "C"),
        ("The answer is C instead of A.", "C"),
        ("The answer is C over A.", "C"),
        ("The answer is definitely C!", "C"),
        ("The answer is probably C, although I am unsure.", "C"),
        ("To answer this, note that the drug is C and the germ is D.", None),
        ("Let us look at option C.", None),
        ("The question asks for option C.", None),
        ("Option C states that ceftriaxone was given.", None),
        ("The diagnosis is (C).", "C"),
        ("The drug of choice is (C).", "C"),
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
        ("The other options are wrong and the answer is C.", "C"),
        ("The patient was at first given oral drugs, and the answer is C.", "C"),
        ("The correct answer is indeed C.", "C"),
        ("The answer is thus C.", "C"),
        ("The answer is C (A and B are wrong).", "C"),
        ("The answer is C. Option A is the best known drug though.", "C"),
        ("The options are A, B, C and D. The answer is D.", "D"),
        ("Of the options A, B, C and D, which blocks the wall?", None),
        ("You could choose C.", None),
        ("The answer was C.", None),
        ("The best drug is in category C.", None),
        ("The most likely drug(s) is (C).", "C"),
        ("The most likely diagnosis is C.", "C"),
        ("The best choice is B because of the germ.", "B"),
    ],
    "label": [
        ("Answer: C", "C"),
        ("Answer : C", "C"),
        ("ANSWER: C", "C"),
        ("Ans: C", "C"),
        ("Answer C", "C"),
        ("Answer - C", "C"),
        ("Answer = C", "C"),
        ("Final answer: B", "B"),
        ("Final Answer: (D) Trimethoprim", "D"),
        ("Correct option: C", "C"),
        ("Answer:\n\nC) Ceftriaxone", "C"),
        ("Answer:\nC", "C"),
        ("The correct answer is:\n\n**C. Ceftriaxone**", "C"),
        ("### Final Answer\nC\n\n### Explanation\nIt blocks the cell wall.", "C"),
        ("<answer>C</answer>", "C"),
        ('{"answer": "C"}', "C"),
        ('{"answer": "C", "confidence": 0.9}', "C"),
        ("Answer: C<|im_end|>", "C"),
        ("Answer: C<｜end▁of▁sentence｜>", "C"),
        ("✅ Answer: C", "C"),
        ("Answer: C\n\nConfidence: high", "C"),
        ("Answer → C", "C"),
        ("Answer => C", "C"),
        ("My answer: C", "C"),
        ("Final Answer\n\nThe final answer is $\\boxed{C}$", "C"),
        ("<answer>\nC\n</answer>", "C"),
        ('```json\n{"choice": "C"}\n```', "C"),
        ("{'answer': 'C'}", "C"),
        ("The correct option is:\n\n**C) Ceftriaxone**\n\nThis drug blocks cell wall synthesis.", "C"),
        ("Answer: C\nExplanation: A, B and D do not act on the wall.", "C"),
        ("Answer: C\n\nReferences:\n1. Smith A. B. et al.", "C"),
        ("Answer: C.\n\nNote: in case of allergy, use A.", "C"),
        ("Incorrect: A, B, D. Correct: C.", "C"),
        ("Answer: C.<|endoftext|>\nHuman: next question", "C"),
    ],
    "markup": [
        ("**C**", "C"),
        ("*C*", "C"),
        ("__C__", "C"),
        ("`C`", "C"),
        (r"\boxed{C}", "C"),
        (r"\boxed{\text{C}}", "C"),
        (r"\boxed{\textbf{(C)}}", "C"),
        (r"$\boxed{C}$", "C"),
        (r"\[ \boxed{\mathrm{C}} \]", "C"),
        (r"The final answer is $\boxed{\text{C) Ceftriaxone}}$.", "C"),
        (r"\boxed{Ceftriaxone}", "C"),
        (r"\(C\)", "C"),
        ("The answer is **C**.", "C"),
        ("**Answer:** C", "C"),
        ("**Answer: C**", "C"),
        ("**The correct answer is (C) Ceftriaxone.**", "C"),
        ("The best drug is ***C) Ceftriaxone***.", "C"),
        ("> Final answer: *C*", "C"),
        ("- **C) Ceftriaxone**", "C"),
        ("The answer is ~~B~~ C.", "C"),
        ("<b>C</b>", "C"),
        ("The answer is 'C'.", "C"),
        ("The answer is “C”.", "C"),
        (r"\boxed{A, C}", None),
        (r"\boxed{E}", None),
        (r"\boxed{}", None),
        (r"The answer is not \boxed{C}", None),
        ("The answer is «C».", "C"),
        ("The answer is \u200bC\u200b.", "C"),
        (r"\fbox{C}", "C"),
        (r"\boxed{ c }", "C"),
        (r"\boxed{C} is the answer.", "C"),
        (r"\boxed{\text{A and C}}", None),
        (r"\boxed{A} or \boxed{C}", None),
        (r"\boxed{A}" + "\n" + r"\boxed{C}", "C"),
        ("<p>The answer is <strong>C</strong>.</p>", "C"),
        ("**Correct answer: C. Ceftriaxone.**\n\nWhy not the others:\n\nA. An aminoglycoside.\n\nB. A quinolone.", "C"),
    ],
    "letter alone": [
        ("C", "C"),
        ("C.", "C"),
        ("C)", "C"),
        ("(C)", "C"),
        ("[C]", "C"),
        ("\n\n  C \n", "C"),
        ("Option C", "C"),
        ("option C.", "C"),
        ("Answer choice C", "C"),
        ("C\n\nThe drug blocks cell wall synthesis.", "C"),
        ("The culture shows gonococci, which lack a capsule.\n\nC", "C"),
        ("It lyses the wall. (C)", "C"),
        ("C because it blocks the cell wall.", "C"),
        ("C?", None),
        ("C. It blocks the wall.", "C"),
        ("[C] Ceftriaxone", "C"),
        ("C\nC\nC", "C"),
        ("→ C", "C"),
        ("1. C", "C"),
        ("C", "C", {"A": "C", "B": "A", "C": "B", "D": "D"}),
    ],
    "letter with its text": [
        ("C) Ceftriaxone", "C"),
        ("C. Ceftriaxone", "C"),
        ("C: Ceftriaxone", "C"),
        ("C - Ceftriaxone", "C"),
        ("(C) Ceftriaxone", "C"),
        ("C (Ceftriaxone)", "C"),
        ("Ceftriaxone (C)", "C"),
        ("C. Ceftriaxone. The culture shows gonococci.", "C"),
        ("C) Ceftriaxone\n\nGentamicin and ciprofloxacin do not act on the wall.", "C"),
        ("The answer is C) ceftriaxone, a cephalosporin.", "C"),
        ("The answer is ceftriaxone, option C.", "C"),
        ("The most likely drug is (C) Ceftriaxone.", "C"),
        ("The best treatment is a third-generation cephalosporin (C).", "C"),
        ("The correct answer is C) Rocephin.", "C"),
        ("C. Kyphosis", "C", TWINS),
        ("Answer: D) None of the above", "D", NESTED),
        ("The answer is C: T3 and T4.", "C", NESTED),
        ("Answer: C. 40%", "C", NUMBERS),
        ("C ceftriaxone", "C"),
        ("The answer is C, Ceftriaxone.", "C"),
        ("The answer is option C (ceftriaxone).", "C"),
        ("The best answer is a cephalosporin such as ceftriaxone (option C).", "C"),
        ("The answer is both A and B.", "A", {"A": "Both A and B", "B": "Zinc", "C": "Iron", "D": "Only B"}),
        ("The answer is C. Gentamicin is an aminoglycoside and would not work.", "C"),
        ("Answer: B. t(9;22)", "B", {"A": "t(8;14)", "B": "t(9;22)"}),
        ("The answer is A pneumothorax.", "B", {"A": "Asthma", "B": "Pneumothorax"}),
    ],
    "letter against its text": [
        ("B) Ceftriaxone", None),
        ("Answer: B) Ceftriaxone", None),
        ("Answer: B. Ceftriaxone", None),
        ("The answer is B: ceftriaxone 1 g daily", None),
        ("The answer is (B), ceftriaxone.", None),
        ("The answer is ceftriaxone (B).", None),
        ("The answer is C. Final answer: B) Ceftriaxone", None),
        (r"\boxed{B. Ceftriaxone}", None),
        ("Answer: A) T3 and T4", None, NESTED),
        ("Answer: A. no", None, POLAR),
        ("The answer is C) None of the above", None),
        ("B ceftriaxone", None),
        ("B. Ceftriaxone 1 g daily", None),
        ("The answer is option B ceftriaxone 1 g.", None),
        ("The answer is ceftriaxone, which is option B.", None),
        ("The answer is option B (ceftriaxone).", None),
        ("The answer is B) ceftriaxone 1 g daily.", None),
        ("The answer is (A) C.", None, {"A": "C", "B": "A", "C": "B", "D": "D"}),
    ],
    "text alone": [
        ("Ceftriaxone", "C"),
        ("ceftriaxone.", "C"),
        ("**Ceftriaxone**", "C"),
        ("The answer is ceftriaxone.", "C"),
        ("Answer: Ceftriaxone", "C"),
        ("The answer is ceftriaxone rather than gentamicin.", "C"),
        ("The most appropriate drug is ceftriaxone.", "C"),
        ("Ceftriaxone is the correct answer.", "C"),
        ("The answer is T3 and T4.", "C", NESTED),
        ("The answer is T4.", "B", NESTED),
        ("None of the above", "D", NESTED),
        ("The answer is hepatitis B.", "A", VIRUS),
        ("Hepatitis B is the most likely diagnosis.", "A", VIRUS),
        ("The most likely diagnosis is vitamin C deficiency.", "D", VIRUS),
        ("The answer is 4.5.", "B", NUMBERS),
        ("Answer: 4", "A", NUMBERS),
        ("The answer is S. aureus.", "E", GERMS),
        ("The most likely diagnosis is kyphosis.", None, TWINS),
        ("The answer is 400.", None, NUMBERS),
        ("The answer is ceftriaxone-like.", None),
        ("Ceftriaxone or gentamicin", None),
        ("The answer is ceftriaxone or gentamicin.", None),
        ("The most appropriate drug is ceftriaxone. Gentamicin acts on ribosomes.", None),
        ("Patients often receive ceftriaxone.", None),
        ("Ceftriaxone does not fit.", None),
        ("Answer: C\n\nThe answer is gentamicin.", None),
        ("The answer is not ceftriaxone.", None),
        ("Vancomycin", None),
        ("Ceftriaxone\n\nIt blocks the cell wall.", "C"),
        ("Ceftriaxone\nGentamicin", None),
        ("Ceftriaxone is correct.", "C"),
        ("Ceftriaxone is the best drug.", "C"),
        ("It is ceftriaxone.", "C"),
        ("The least appropriate drug is ceftriaxone.", None),
        ("Do not give ceftriaxone.", None),
        ("The answer is ceftriaxone 250 mg.", None),
        ("The answer is ceftriaxone.\n\nFinal answer: B", "B"),
        ("The answer is C.\n\nFinal answer: Ceftriaxone", "C"),
        ("The answer is not gentamicin but ceftriaxone.", "C"),
        ("Ceftriaxone inhibits the wall, gentamicin the ribosome.", None),
        ("Gentamicin: ribosome\nCiprofloxacin: gyrase\nCeftriaxone: wall", None),
        ("The best next step is to stop the drug.", "B", {"A": "Reassurance", "B": "Stop the drug"}),
        ("Ceftriaxone, not gentamicin.", "C"),
        ("Ceftriaxone\n\nIt blocks the cell wall, unlike gentamicin.", None),
        ("Ceftriaxone, a cephalosporin, blocks the wall.", None),
        ("None of the above", "B", {"A": "Zinc", "B": "None of the above."}),
    ],
    "yes, no, maybe": [
        ("Yes", "A", POLAR),
        ("no.", "B", POLAR),
        ("**Maybe**", "C", POLAR),
        ("Yes, tailored print material raised the use of mammography.", "A", POLAR),
        ("No. There was no significant difference.", "B", POLAR),
        ("The answer is yes.", "A", POLAR),
        ("Answer: no", "B", POLAR),
        ("Final answer: maybe, as the sample was small.", "C", POLAR),
        ("The answer is 'yes'.", "A", POLAR),
        ("A) yes", "A", POLAR),
        ("The answer is (B) no.", "B", POLAR),
        ("The answer is B, no effect was seen.", "B", POLAR),
        ("The answer is A, no doubt about it.", "A", POLAR),
        ("In conclusion, the answer to the question is likely yes.", "A", POLAR),
        ("The study found no difference. The answer is yes.", "A", POLAR),
        ("No significant difference was found.", None, POLAR),
        ("Maybe the sample was too small to tell.", None, POLAR),
        ("Yes and no.", None, POLAR),
        ("The answer is yes or no.", None, POLAR),
        ("The answer is no longer clear.", None, POLAR),
        ("There were no yes answers.", None, POLAR),
        ("Yes - the study shows so.", "A", POLAR),
        ("Yes; the effect was clear.", "A", POLAR),
        ("Yes, they can. The answer is B.", "B", POLAR),
        ("The answer is not yes but no.", "B", POLAR),
        ("Answer: A\n\nNo significant side effects were found.", "A", POLAR),
        ("Yes/No/Maybe", None, POLAR),
        ("A: No. B: No. C: Yes.", None, POLAR),
        ("The study does not show it, so no.", "B", POLAR),
    ],
    "several letters": [
        ("A and C", None),
        ("A or C", None),
        ("A, C", None),
        ("A/C", None),
        ("The answer is A or C.", None),
        ("The answer is (A) and (C).", None),
        ("The answer is either A or C.", None),
        ("Answer: A, B", None),
        ("Answer: A & C", None),
        ("Answer: AC", None),
        ("The answer is A) Gentamicin or C) Ceftriaxone.", None),
        ("A and C are the correct answers.", None),
        ("Both A and C are correct.", None),
        ("It is a tie between A and C.", None),
        ("The answer is C. Final answer: A or C.", None),
        ("The best drug is an aminoglycoside (A) or a cephalosporin (C).", None),
        ("A is correct. C is correct.", None),
        ("Between A and C, the answer is C.", "C"),
        ("Both A and B are wrong, so the answer is C.", "C"),
        ("The answer is C and the patient should be watched.", "C"),
        ("The answer is C, possibly A.", None),
        ("The answer is A, maybe C.", None),
        ("The answer is C, but also A.", None),
        ("Options A and C are correct.", None),
        ("A) Gentamicin and C) Ceftriaxone", None),
        ("A, B and C are the best choices.", None),
        ("The answer is C or, if allergic, A.", None),
        ("The answer is not only A but also C.", None),
        ("The best choices are A and C.", None),
    ],
    "denied": [
        ("The answer is not B.", None),
        ("The answer isn't B.", None),
        ("The answer cannot be B.", None),
        ("B is not the correct answer.", None),
        ("I don't think the answer is B.", None),
        ("I would not choose B.", None),
        ("The answer is neither A nor B.", None),
        ("The wrong answer is B.", None),
        ("Not B.", None),
        ("B is incorrect.", None),
        ("Answer: B is wrong.", None),
        ("A is ruled out.", None),
        ("The answer is B. On reflection, the answer is not B.", None),
        ("The answer is B. Then again, B is not the answer.", None),
        ("Not A but B.", "B"),
        ("The answer is not A but B.", "B"),
        ("It is not A but rather B.", "B"),
        ("The answer is not B; it is C.", "C"),
        ("The answer is C, not B.", "C"),
        ("The answer is C rather than A or B.", "C"),
        ("A is wrong, the answer is B.", "B"),
        ("A is not right, the answer is B.", "B"),
        ("The answer is C. The answer is not B.", "C"),
        ("The answer is not A. The answer is D.", "D"),
        ("The incorrect options are A, B and D.", None),
        ("The answer is not (A), (B), or (D), so it must be (C).", "C"),
        ("Neither A nor B is correct; the answer is D.", "D"),
        ("The answer is C, but not A.", "C"),
        ("C is not the only correct answer.", None),
        ("The answer is never B.", None),
        ("The false option is B.", None),
        ("All are right except option B.", None),
        ("The other option is B.", None),
        ("The second best answer is B.", None),
        ("The worst choice is B.", None),
        ("The most common wrong answer is B.", None),
        ("The excluded option is B.", None),
        ("The eliminated option is B.", None),
        ("Neither B nor C.", None),
        ("I doubt that the answer is B.", None),
        ("I disagree that the answer is B.", None),
        ("It is unlikely that the answer is B.", None),
        ("No B.", None),
        ("The best drug is similar to option B.", None),
        ("The answer differs from option B.", None),
        ("The answer is unlike C) Ceftriaxone.", None),
    ],
    "last statement wins": [
        ("The answer is A. Wait. Final answer: B", "B"),
        ("Answer: A\n\nOn reflection, the answer is D.", "D"),
        ("I first thought the answer was A, but it is C.", "C"),
        ("**B**\n\nHmm, the correct answer is C.", "C"),
        ("The most likely drug is (A). Checking the target: the answer is C.", "C"),
        (r"The answer is B. \boxed{D}", "D"),
        ("The answer is B. Actually, C.", "C"),
        ("The most appropriate drug is gentamicin. Answer: C", "C"),
        ("C is the best choice at first sight, but D is the correct answer.", "D"),
        ("The answer is C.\n\nA is incorrect. B is incorrect. D is incorrect.", "C"),
        ("The answer is B. The answer is none of the above.", None),
        ("The answer is B. Final answer: F", None),
        ("The answer is B. No wait, it's C.", "C"),
        ("The answer is B. Correction: C", "C"),
        ("My first choice was B. My final choice is C.", "C"),
        ("I was going to say B; however the answer is C.", "C"),
        ("Answer: A) Gentamicin\nAnswer: C) Ceftriaxone", "C"),
        ("The answer is A. The answer is C. The answer is A.", "A"),
        ("The answer is C.\n\nThe answer is A or C.", None),
        ("The answer is B. Wait, C.", "C"),
        ("The answer is B. The answer is neither A nor B.", None),
        ("It is not A, however the answer is C.", "C"),
        ("The answer is A, no wait, C.", "C"),
        ("Answer: A ... no, C.", "C"),
    ],
    "subject": [
        ("C is the correct answer.", "C"),
        ("C is correct.", "C"),
        ("Option C is the best choice.", "C"),
        ("Option C, ceftriaxone, is the answer.", "C"),
        ("(C) is right.", "C"),
        ("I believe that C is the most appropriate option.", "C"),
        ("This makes option C the best choice.", "C"),
        ("A, B and D do not act on the wall; hence C is the answer.", "C"),
        ("Ceftriaxone (C) is the best choice.", "C"),
        ("C is the wrong answer.", None),
        ("C is the least likely option.", None),
        ("C is likely correct.", "C"),
        ("C appears to be correct.", "C"),
        ("C seems right.", "C"),
        ("C must be the answer.", "C"),
        ("C remains the best answer.", "C"),
        ("C is most likely.", "C"),
        ("C is our answer.", "C"),
        ("Thus ceftriaxone, option C, is the best choice.", "C"),
        ("A and B are out, leaving C as the answer.", "C"),
        ("This makes C the answer.", "C"),
        ("The best test is option C, this is the correct answer.", "C"),
        ("It blocks the wall, and C is the answer.", "C"),
        ("It blocks the wall; so C is the answer.", "C"),
        ("B would be the answer in a different setting.", None),
        ("Vitamin C is the best choice.", None),
        ("Hepatitis C is the correct answer.", None),
        ("It blocks the wall, because C is the answer.", "C"),
        ("I doubt it, while C is the answer.", "C"),
        ("It blocks the wall, thus C is the answer.", "C"),
        ("It blocks the wall and therefore C is the answer.", "C"),
        ("The wall is lysed, making C the answer.", "C"),
        ("C is my choice.", "C"),
        ("C is the only plausible option.", "C"),
        ("C seems to be the best choice.", "C"),
        ("A and C are right.", None),
        ("A relapse is common, and C is the most severe form.", None),
        ("B is correct. B is not the answer.", None),
        ("Ceftriaxone is the correct answer. Gentamicin binds the ribosome.", "C"),
        ("The effect was large. Yes, this seems right.", None, POLAR),
        ("That must be right, yes, since the effect was large.", None, POLAR),
        ("The vessel runs to the right (A).", None),
        ("‘B’ seems right: it moves towards the lateral border.", "B"),
    ],
    "lower case": [
        ("c", "C"),
        ("(c)", "C"),
        ("c)", "C"),
        ("answer: c", "C"),
        ("the answer is c", "C"),
        ("the answer is (c) ceftriaxone", "C"),
        ("option c", "C"),
        ("the answer is b. the drug stops gyrase.", "B"),
        ("the answer is a.", "A"),
        ("the answer is a combination of drugs.", None),
        ("the answer is a or c", None),
    ],
    "letters that are words": [
        ("A patient with arthritis needs treatment.", None),
        ("The answer is A patient education programme.", None),
        ("Answer: A cephalosporin would work.", None),
        ("The best treatment is vitamin C.", None),
        ("The patient has hepatitis B.", None),
        ("The most likely cause is group A streptococcus.", None),
        ("Hepatitis B and C were ruled out.", None),
        ("I think that the drug acts on the wall.", None, MANY),
        ("I", "I", MANY),
        ("The answer is I.", "I", MANY),
        ("Answer: I am not sure.", None, MANY),
        ("So I would choose C.", "C", MANY),
        ("The most likely organism is E. coli.", None, GERMS),
        ("The answer is C. difficile.", None, GERMS),
        ("The answer is B cells.", None),
        ("The answer is A-fib.", None),
        ("The answer is B/c of the wall.", None),
        ("The temperature is 39 °C", None),
        ("D-dimer was raised, and vitamin D was low.", None),
        ("Type A", None),
        ("Cab", None),
        ("e.g. a wall lysis, i.e. death", None, MANY),
        ("Group A streptococcus was grown, but the answer is C.", "C"),
        ("The answer is B-cell lymphoma.", None),
        ("The answer is C3 deficiency.", None),
        ("The answer is A+ blood.", None),
        ("The best treatment is A drug.", None),
        ("Answer: ACE inhibitor", None),
        ("Answer: ABCD", None),
        ("This is a classic case of sepsis, i.e. shock.", None),
    ],
    "letters of other alphabets": [
        ("Answer: С", "C"),  # Cyrillic Es
        ("The answer is (В).", "B"),  # Cyrillic Ve
        ("А", "A"),  # Cyrillic A
        ("Answer: Α", "A"),  # Greek Alpha
        ("(Β)", "B"),  # Greek Beta
        ("Ａ", "A"),  # full width
        ("Answer：（Ｃ）", "C"),
        ("**𝐂**", "C"),  # mathematical bold
        ("The answer is с.", "C"),  # Cyrillic es
        ("α-blockers and β-blockers", None),
        ("В организме", None),
        ("Answer: Д", None),  # Cyrillic De looks like no Latin letter
        ("С) Gentamicin", None),  # a look-alike C against its text
    ],
    "no option": [
        ("F", None),
        ("Answer: E", None),
        ("The answer is (Z).", None),
        ("None of the above", None),
        ("The answer is none of these options.", None),
        ("All of the above", None),
        ("Answer: 3", None),
        ("Answer: None", None),
        ("Answer: unknown", None),
        ("The answer is none of the options.", None),
        ("The answer cannot be determined.", None),
    ],
    "unreal": [
        ("If the patient were pregnant, the answer would be B.", None),
        ("The answer is B if the patient is pregnant.", None),
        ("Unless he is allergic, the answer is C.", None),
        ("Some might say the answer is A.", None),
        ("It is tempting to choose A.", None),
        ("Many students choose B.", None),
        ("At first glance, the answer is B.", None),
        ("Is the answer B?", None),
        ("Could it be C?", None),
        ("The answer could be C.", None),
        ("It is unclear whether the answer is C.", None),
        ("While one might think the answer is A, the answer is C.", "C"),
        ("If he were allergic, the answer would be B, but the answer is C.", "C"),
        ("What is the answer? The answer is C.", "C"),
        ("The answer is C. If he were pregnant, the answer would be A.", "C"),
        ("Had the drug acted on gyrase, the answer would be B.", None),
        ("B would be correct if the drug acted on gyrase.", None),
        ("Assuming gonorrhoea, the answer is C.", None),
        ("Suppose the answer is C.", None),
        ("Otherwise the answer is C.", None),
        ("The answer is C unless he is allergic.", None),
        ("Initially the answer is B.", None),
        ("My initial answer is B.", None),
        ("My first guess is that the answer is B.", None),
        ("A common mistake is to choose A.", None),
        ("You may think the answer is A.", None),
        ("One would think the answer is A.", None),
        ("The answer may be A, though C is possible.", None),
        ("The statement 'the answer is B' is wrong.", None),
        ("Why is B not the answer? Because it stops gyrase.", None),
        ("Note: if allergic, the answer is A.\n\nAnswer: C", "C"),
        ("If allergic the answer is B, so the answer here is C.", "C"),
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
        ("If he is allergic use B; however the answer is C.", "C"),
        ("If he has gonorrhoea, he needs a wall drug, therefore the answer is C.", "C"),
        ("If he has gonorrhoea, he needs a wall drug, thus the answer is C.", "C"),
        ("If he has gonorrhoea, he needs a wall drug, hence the answer is C.", "C"),
    ],
    "walk through the options": [
        ("A) wrong because it binds the ribosome\nB) right because it blocks the wall", None),
        ("A) Gentamicin: binds 30S.\nB) Ciprofloxacin: stops gyrase.\nC) Ceftriaxone: blocks the wall.", None),
        ("A. Gentamicin\nB. Ciprofloxacin\nC. Ceftriaxone\nD. Trimethoprim", None),
        ("Answer:\nA) Gentamicin\nB) Ciprofloxacin", None),
        ("- **A**: incorrect.\n- **B**: incorrect.\n- **C**: correct.\n- **D**: incorrect.", None),
        ("Option A is wrong because it binds 30S. Option B stops gyrase.", None),
        ("A) Gentamicin. Wrong.", None),
        ("A) Gentamicin\nB) Ciprofloxacin\nC) Ceftriaxone\nD) Trimethoprim\n\nAnswer: C", "C"),
        ("A) wrong\nB) wrong\nC) right\nD) wrong\n\nC", "C"),
        ("A) wrong\nB) wrong\nC) right\nD) wrong\n\n**C) Ceftriaxone**", "C"),
        ("C) Ceftriaxone\n\nA) binds 30S\nB) stops gyrase\nD) stops folate", "C"),
        ("A) binds 30S\nB) stops gyrase\nC) Ceftriaxone: this is the correct answer.\nD) stops folate", "C"),
        ("A) wrong\nB) wrong\n\nThe answer is C.", "C"),
        ("1. A) wrong\n2. B) wrong\n3. C) blocks the wall\n\nSo the answer is C.", "C"),
        ("A) Gentamicin ❌\nB) Ciprofloxacin ❌\nC) Ceftriaxone ✅\nD) Trimethoprim ❌", None),
        ("Option A: wrong.\nOption B: wrong.\nOption C: right.\nOption D: wrong.", None),
        ("Option A (Gentamicin) is incorrect.\nOption C (Ceftriaxone) is the correct answer.", "C"),
        ("**Analysis**\n\nA: aminoglycoside\nB: quinolone\n\n**Answer**\n\nC", "C"),
        ("A) Gentamicin. Incorrect, it binds 30S.\nB) Ciprofloxacin. This is the correct answer.", "B"),
        ("| Option | Verdict |\n|---|---|\n| A | wrong |\n| C | right |", None),
        ("Answer: C\n\nWhy not B?\nB) Ciprofloxacin\nIt stops gyrase.", "C"),
    ],
    "no answer": [
        ("", None),
        ("   \n", None),
        ("I do not know.", None),
        ("The patient needs a careful history first.", None),
        ("Consult a doctor.", None),
        ("Answer:", None),
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


def test_the_table_is_large_and_has_no_reply_twice():
    replies = [(case[0], id((*case, DRUGS)[2])) for cases in TABLE.values() for case in cases]
    assert len(set(replies)) == len(replies) >= 150


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


WORDS = [
    *"ABCDEIabcdi",
    *DRUGS.values(),
    "the answer is",
    "Answer:",
    "option",
    "not",
    "but",
    "or",
    "and",
    "if",
    "(",
    ")",
]
WORDS += [
    ".",
    ",",
    ":",
    "\n",
    "?",
    "-",
    "**",
    "\\boxed{",
    "}",
    "‹L:A›",
    "‹",
    "›",
    "</think>",
    "is correct",
    "yes",
    "С",
    "none",
]
TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from([DRUGS, POLAR, VIRUS, MANY, NUMBERS, TWINS]))
def test_any_text_gives_an_option_or_nothing(text, options):
    assert extract_choice(f"</think>{text}", options) in {None, *options}
    assert extract_choice(text.replace("</think>", ""), options) is None


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(string.ascii_uppercase), st.text(max_size=20), min_size=1, max_size=6), TEXTS)
def test_any_options_are_read_without_an_error(options, text):
    assert extract_choice(f"</think>{text}", options) in {None, *options}


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.sampled_from("ABCD"))
def test_a_plain_last_line_wins_over_whatever_stands_before(text, letter):
    assert extract_choice(f"</think>{text}\n\nFinal answer: {letter}", DRUGS) == letter


def test_a_reply_that_repeats_itself_is_read_in_good_time():
    for text in (
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
    ):
        start = time.process_time()
        extract_choice("</think>" + text * (40_000 // len(text)), DRUGS)
        assert time.process_time() - start < 3, text


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 10), (7, 10), (113, 200), (1273, 1273), (600, 4183)])
def test_wilson_agrees_with_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(successes, n, 0.8)[1] < wilson_interval(successes, n)[1] or successes == n


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


def test_wilson_covers_at_the_stated_rate():
    n, truths = 60, np.linspace(0.05, 0.95, 181)
    low, high = np.array([wilson_interval(k, n) for k in range(n + 1)]).T
    held = (low <= truths[:, None]) & (truths[:, None] <= high)
    coverage = (held * binom.pmf(np.arange(n + 1), n, truths[:, None])).sum(axis=1)  # exact, no random numbers
    assert coverage.mean() == pytest.approx(0.95, abs=0.005)
    assert coverage.min() > 0.9


def test_bootstrap_agrees_with_resampling_by_hand():
    values = np.random.default_rng(0).normal(2, 1, 80)
    means = np.random.default_rng(1).choice(values, (20_000, values.size)).mean(axis=1)
    assert bootstrap_interval(values, seed=3) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.01)
    assert bootstrap_interval(values, 3, 0.5) == pytest.approx(np.percentile(means, [25, 75]), abs=0.01)


def test_bootstrap_covers_at_the_stated_rate():
    samples = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (400, 120), p=[0.1, 0.7, 0.2])
    intervals = np.array([bootstrap_interval(sample, seed=i, resamples=500) for i, sample in enumerate(samples)])
    assert ((intervals[:, 0] <= 0.1) & (intervals[:, 1] >= 0.1)).mean() == pytest.approx(0.95, abs=0.03)


def test_bootstrap_depends_on_the_seed_alone():
    values = list(range(50))
    assert bootstrap_interval(values, 1) == bootstrap_interval(values, 1) != bootstrap_interval(values, 2)


def test_few_values_have_no_interval_and_equal_ones_no_width():
    for values in ([0.25], [1, 1, 1], [0.1, 0.2, 0.3, 0.4]):
        assert bootstrap_interval(values, 0) == mean_interval(values) == (-math.inf, math.inf)
    assert bootstrap_interval([1] * 5, 0) == mean_interval([1] * 5) == (1.0, 1.0)


@pytest.mark.parametrize("interval", [lambda values: bootstrap_interval(values, 0), mean_interval])
@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, math.nan], [math.inf]])
def test_intervals_refuse_what_has_no_mean(interval, values):
    with pytest.raises(ValueError, match="1-D array of at least one"):
        interval(values)


def test_the_interval_of_a_mean_is_students():
    """Against the test that it inverts, at the ends of the interval."""
    values = np.random.default_rng(0).normal(2, 1, 12)
    for end in mean_interval(values):
        assert ttest_1samp(values, end).pvalue == pytest.approx(0.05)
    for end in mean_interval(values, 0.8):
        assert ttest_1samp(values, end).pvalue == pytest.approx(0.2)


@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize("draw", ["standard_normal", "standard_t", "laplace"])
def test_a_difference_of_means_is_claimed_as_often_as_stated_where_there_is_none(draw, n):
    random = np.random.default_rng(n)
    shape = {"standard_normal": {}, "standard_t": {"df": 5}, "laplace": {}}[draw]
    samples = getattr(random, draw)(size=(1000, n), **shape)
    sentences = [verdict(fmean(each), mean_interval(each), noun="NLL", points=False, n=n) for each in samples]
    assert fmean(bool(CLAIMS.search(sentence)) for sentence in sentences) <= 0.07


@pytest.mark.parametrize("n", [1, 2, 4])
def test_of_few_rows_nothing_is_claimed(n):
    random = np.random.default_rng(n)
    for shift in (0.0, 1.0, 100.0):
        for values in random.normal(shift, 1, (50, n)):
            sentence = verdict(fmean(values), mean_interval(values), noun="NLL", points=False, n=n)
            assert sentence.startswith(f"Too few rows were measured (n = {n}) to say anything about NLL: ")
            assert not CLAIMS.search(verdict(fmean(values), bootstrap_interval(values, 0)))
    found = compare_paired([False] * n, [True] * n, 0)
    assert (found["delta"], found["delta_ci95"]) == (1.0, [-1.0, 1.0])
    sentence = verdict(1.0, found["delta_ci95"], detectable=found["detectable"], p_value=found["mcnemar_p"], n=n)
    assert sentence == (
        f"Too few rows were measured (n = {n}) to say anything about accuracy: tuned minus base is +100.0 points."
    )


def paired(both, base_only, tuned_only, neither):
    base = [True] * (both + base_only) + [False] * (tuned_only + neither)
    return base, [True] * both + [False] * base_only + [True] * tuned_only + [False] * neither


@pytest.mark.parametrize("counts", [(10, 5, 15, 20), (0, 0, 6, 0), (3, 8, 8, 1), (100, 1, 0, 99), (0, 40, 12, 3)])
def test_compare_agrees_with_statsmodels(counts):
    both, base_only, tuned_only, neither = counts
    result = compare_paired(*paired(*counts), seed=0)
    n = sum(counts)
    assert result["mcnemar_p"] == pytest.approx(mcnemar([[both, base_only], [tuned_only, neither]], exact=True).pvalue)
    assert {key: result[key] for key in ("n", "both", "neither", "base_only", "tuned_only")} == {
        "n": n, "both": both, "neither": neither, "base_only": base_only, "tuned_only": tuned_only
    }  # fmt: skip
    assert result["base_accuracy"] == pytest.approx((both + base_only) / n)
    assert result["tuned_accuracy"] == pytest.approx((both + tuned_only) / n)
    assert result["delta"] == pytest.approx((tuned_only - base_only) / n)
    assert result["base_ci95"] == pytest.approx(proportion_confint(both + base_only, n, method="wilson"))
    assert result["tuned_ci95"] == pytest.approx(proportion_confint(both + tuned_only, n, method="wilson"))
    assert result["delta_ci95"][0] <= result["delta"] <= result["delta_ci95"][1]


def test_compare_finds_the_interval_that_pairing_gives():
    result = compare_paired(*paired(80, 10, 30, 80), seed=1)
    half = 1.96 * math.sqrt((40 / 200 - 0.1**2) / 200)  # normal approximation, of the paired differences
    assert result["delta_ci95"] == pytest.approx([0.1 - half, 0.1 + half], abs=0.006)


def test_compare_without_discordant_pairs():
    result = compare_paired([True, False, True] * 2, [True, False, True] * 2, seed=0)
    assert (result["mcnemar_p"], result["delta"], result["delta_ci95"]) == (1.0, 0.0, [0.0, 0.0])
    few = compare_paired([True, False, True], [True, False, True], seed=0)
    assert (few["mcnemar_p"], few["delta"], few["delta_ci95"], few["detectable"]) == (1.0, 0.0, [-1.0, 1.0], 1.0)


@pytest.mark.parametrize(("base", "tuned"), [([], []), ([True], []), ([True], [True, False]), ([[True]], [[True]])])
def test_compare_refuses_unequal_or_empty_sequences(base, tuned):
    with pytest.raises(ValueError, match="equally long sequences of at least one"):
        compare_paired(base, tuned, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.integers(0, 2**32))
def test_compare_is_symmetric_and_plain(pairs, seed):
    base, tuned = zip(*pairs, strict=True)
    there, back = compare_paired(base, tuned, seed), compare_paired(tuned, base, seed)
    assert there["delta"] == -back["delta"]
    assert there["mcnemar_p"] == back["mcnemar_p"]
    assert there["detectable"] == back["detectable"]
    assert there["delta_ci95"] == pytest.approx([-end for end in reversed(back["delta_ci95"])], abs=1e-12)
    assert (there["base_only"], there["base_ci95"]) == (back["tuned_only"], back["tuned_ci95"])
    assert json.loads(json.dumps(there, allow_nan=False)) == there
    assert 0 <= there["mcnemar_p"] <= 1
    assert 0 < there["detectable"] <= 1


@pytest.mark.parametrize(("n", "discordance"), [(200, 0.2), (600, 0.3), (1273, 0.25), (4183, 0.1)])
def test_the_detectable_difference_solves_connors_equation(n, discordance):
    def missing(difference):
        root = math.sqrt(discordance - difference**2)
        return (norm.ppf(0.975) * math.sqrt(discordance) + norm.ppf(0.8) * root) ** 2 / difference**2 - n

    assert detectable_difference(n, discordance) == pytest.approx(brentq(missing, 1e-4, discordance), rel=1e-6)


def test_the_detectable_difference_is_found_four_times_in_five():
    n, discordance = 800, 0.25
    difference = detectable_difference(n, discordance)
    probabilities = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    gained, lost, _ = np.random.default_rng(0).multinomial(n, probabilities, 20_000).T
    p_values = np.minimum(1, 2 * binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))  # exact McNemar
    assert (p_values < 0.05).mean() == pytest.approx(0.8, abs=0.04)


def test_the_detectable_difference_has_a_floor_that_shrinks_with_n():
    assert detectable_difference(1000, 0.0) == detectable_difference(1000, 0.001) == pytest.approx(7.8 / 1000, rel=0.02)
    assert detectable_difference(1000, 0.2) > detectable_difference(1000, 0.1) > detectable_difference(4000, 0.1)
    assert [detectable_difference(n, 0.5) for n in (1, 2, 3)] == [1.0, 1.0, 1.0]


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.6 times 4, 3, 2, 1: the third, 0.06, is no smaller than the second."""
    adjusted = adjust_holm({"medqa": 0.03, "pubmedqa": 0.01, "medmcqa": 0.6, "sample": 0.02})
    assert list(adjusted) == ["medqa", "pubmedqa", "medmcqa", "sample"]
    assert adjusted == pytest.approx({"medqa": 0.06, "pubmedqa": 0.04, "medmcqa": 0.6, "sample": 0.06})
    # 0.04 * 2 = 0.08 holds up the larger one, and 0.7 * 2 is cut.
    assert adjust_holm({"a": 0.05, "b": 0.04}) == pytest.approx({"a": 0.08, "b": 0.08})
    assert adjust_holm({"a": 0.9, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert adjust_holm({"only": 0.049}) == {"only": 0.049}
    assert adjust_holm({}) == {}
    assert type(adjusted["medqa"]) is float


@pytest.mark.parametrize(
    "table",
    [[0.001, 0.0125, 0.0166, 0.0251], [1, 1, 1], [0, 0.05, 1], [0.02] * 5, [0.5, 0.4, 0.3, 0.2, 0.1, 0.008]],
)
def test_holm_agrees_with_statsmodels(table):
    adjusted = adjust_holm(dict(zip(string.ascii_lowercase, table, strict=False)))
    rejected, expected, _, _ = multipletests(table, alpha=0.05, method="holm")
    assert list(adjusted.values()) == pytest.approx(list(expected))
    assert [p <= 0.05 for p in adjusted.values()] == list(rejected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_the_raw_value_and_bonferronis(values):
    adjusted = adjust_holm(dict(enumerate(values)))
    assert all(p <= adjusted[i] <= min(1, len(values) * p) + 1e-12 for i, p in enumerate(values))
    assert [adjusted[i] for i in np.argsort(values, kind="stable")] == sorted(adjusted.values())


@pytest.mark.parametrize("shared", [0, 0.7])
def test_holm_keeps_the_familywise_error_of_four_tasks_at_five_percent(shared, monkeypatch):
    """No task differs; with `shared` > 0 the tests hang together, as those of one pair of models do."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels collects garbage in every call, 40 ms of it
    rng = np.random.default_rng(0)
    z = shared**0.5 * rng.normal(size=(6000, 1)) + (1 - shared) ** 0.5 * rng.normal(size=(6000, 4))
    raw = 2 * norm.sf(abs(z))
    errors = np.mean([min(adjust_holm(dict(zip("abcd", p, strict=True))).values()) < 0.05 for p in raw])
    assert (raw.min(axis=1) < 0.05).mean() > 0.08  # what it would be without
    assert 0.01 < errors <= 0.05 + 2 * (0.05 * 0.95 / len(raw)) ** 0.5


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_p_value(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjust_holm({"medqa": 0.5, "other": p})


CLAIMS = re.compile(r"better|worse|improv|gain|beat|outperform|higher|lower", re.IGNORECASE)


@pytest.mark.parametrize(
    ("delta", "interval", "lower_is_better", "word"),
    [
        (0.05, (0.01, 0.09), False, "better"),
        (-0.05, (-0.09, -0.01), False, "worse"),
        (-0.3, (-0.4, -0.2), True, "better"),
        (0.3, (0.2, 0.4), True, "worse"),
    ],
)
def test_the_verdict_claims_what_the_interval_shows(delta, interval, lower_is_better, word):
    sentence = verdict(delta, interval, lower_is_better, noun="score")
    assert CLAIMS.findall(sentence) == [word]
    assert "missed" not in sentence
    assert CLAIMS.search(verdict(delta, interval, lower_is_better, p_value=0.049))
    assert not CLAIMS.search(verdict(delta, interval, lower_is_better, p_value=0.05))


def test_the_verdict_gives_the_figures():
    assert verdict(0.05, (0.01, 0.09)) == (
        "The tuned model's accuracy is better than the base model's: +5.0 points (95% interval +1.0 to +9.0)."
    )
    assert verdict(0.01, (-0.03, 0.05), detectable=0.071) == (
        "No difference in accuracy is shown: tuned minus base is +1.0 points (95% interval -3.0 to +5.0), and a "
        "difference of up to about 7.1 points in either direction could have been missed."
    )
    assert "+0.050 (95% interval -0.100 to +0.020), and a difference of up to about 0.100 in" in verdict(
        0.05, (-0.1, 0.02), noun="NLL", points=False
    )


@given(st.floats(-1, 0), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.sampled_from([None, 0.05]), st.booleans())
def test_the_verdict_never_claims_when_the_interval_holds_zero(low, high, where, lower_is_better, detectable, points):
    delta = low + where * (high - low)
    sentence = verdict(delta, (low, high), lower_is_better, "score", detectable, points=points)
    assert not CLAIMS.search(sentence)
    assert "could have been missed" in sentence


@pytest.mark.parametrize("interval", [(0.1, -0.1), (math.nan, 0.1)])
def test_the_verdict_refuses_an_interval_that_is_none(interval):
    with pytest.raises(ValueError, match="interval"):
        verdict(0.0, interval)


def test_baselines():
    assert majority_baseline(["A", "B", "A", "C"]) == 0.5
    assert majority_baseline(["A"]) == 1.0
    assert chance([4, 4]) == 0.25
    assert chance([2, 4]) == pytest.approx(0.375)
    with pytest.raises(ValueError, match="at least one"):
        majority_baseline([])
    for counts in ([], [4, 0]):
        with pytest.raises(ValueError, match="at least one"):
            chance(counts)
