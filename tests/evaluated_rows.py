"""Predictions of both sides for the tests of metrics and of the pages that show them."""

LETTERS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Dabigatran"}


def unseen(i, nll, closed, finished, thinking_tokens, reply="a</think>b"):
    return {
        "task": "validation", "id": f"validation-{i}", "question": f"Question {i}?", "reply": reply, "closed": closed,
        "finished": finished, "tokens": 50, "thinking_tokens": thinking_tokens, "reference": "R", "nll": nll,
        "nll_thinking": nll - 0.5, "nll_answer": nll + 1,
    }  # fmt: skip


def choice(task, i, answer, chosen, finished=True, options=LETTERS, reply="a</think>b"):
    return {
        "task": task, "id": f"{task}-{i}", "question": f"Which {i}?", "reply": reply, "closed": True,
        "finished": finished, "tokens": 50, "thinking_tokens": 3, "options": options, "answer_idx": answer,
        "choice": chosen, "correct": finished and chosen == answer,
    }  # fmt: skip


THREE = {key: LETTERS[key] for key in "ABC"}
BASE = [
    unseen(0, 2.0, False, False, 10),
    unseen(1, 3.0, False, True, 30),
    choice("medqa", 0, "A", "A"),
    choice("medqa", 1, "B", None),  # abstained
    choice("medqa", 2, "A", "B"),
    choice("medqa", 3, "C", None, finished=False, options=THREE),  # truncated
    choice("other", 0, "A", "B"),
    choice("other", 1, "A", "C"),
    choice("other", 2, "B", None),
]
TUNED = [
    unseen(0, 1.5, True, True, 20),
    unseen(1, 3.1, False, True, 50),
    choice("medqa", 0, "A", "C"),
    choice("medqa", 1, "B", "B"),
    choice("medqa", 2, "A", "A"),
    choice("medqa", 3, "C", None, finished=False, options=THREE),
    choice("other", 0, "A", "A"),
    choice("other", 1, "A", "A"),
    choice("other", 2, "B", "B"),
]


def lettered(*probabilities, right):
    return {"letters": dict(zip("ABCD", probabilities, strict=False)), "answer_idx": right}


def believed(confidences, hits):
    """Rows of two letters, A the more probable one."""
    return [lettered(c, 1 - c, right="A" if hit else "B") for c, hit in zip(confidences, hits, strict=True)]
