"""A multiple-choice question, for the tests of what looks things up."""

from helpers.questions.multiple_choice import ChoiceQuestion


def choice_question(number, text, options=None, answer="B", **more):
    options = options or {"A": "one", "B": "two"}
    return ChoiceQuestion(id=f"q{number}", question=text, options=options, answer_idx=answer, **more)
