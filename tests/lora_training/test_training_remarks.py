"""What notebook 04 says about a training."""

import pytest

from helpers.config import Config
from helpers.lora_training.remarks import curve_remark, plan_remark, settings_in_words, step_remark, steps_remark


def log(train, validation):
    """Training losses by step, and validation losses spread evenly over the same steps."""
    losses = [{"step": k + 1, "loss": loss} for k, loss in enumerate(train)]
    gap = len(train) / max(1, len(validation) - 1)
    return losses + [{"step": round(k * gap), "validation_nll": nll} for k, nll in enumerate(validation)]


@pytest.mark.parametrize(
    ("train", "validation", "said"),
    [
        ([4, 3, 2, 1], [4, 3, 2], "Here: the validation loss falls from 4.00 to 2.00 without a turn"),
        ([4, 3, 2, 1], [4, 3, 5], "is lowest at 3.00 and ends at 5.00. It rises after step 2, which is overfitting if"),
        ([4, 3, 2, 1], [4, 5, 6], "It rises from its start, which is"),
        ([4, 9, 4, 9], [4, 3, 2], "Here: the validation loss falls"),  # whatever the rows of a step
        ([4, 3, 2, 1], [4, 4, 4], "hardly moves"),
        ([4], [4], "too little was measured"),
        ([], [], "too little was measured"),
    ],
)
def test_the_curve_is_read_as_it_runs(train, validation, said):
    assert said in curve_remark(log(train, validation))


def test_steps_are_set_against_epochs():
    config = Config.resolve("laptop", {"training.batch_size": 2, "training.gradient_accumulation": 3})
    said = steps_remark(config, 5, 100)
    assert "a step sees 6 rows, so 100 rows make 17 steps an epoch." in said
    assert "a step sees 1 row, so 97 rows" in steps_remark(Config.resolve("laptop"), 97, 97)
    assert said.endswith("70 rows are never seen.")
    assert steps_remark(config, 17, 100).endswith("see each of them once.")
    assert steps_remark(config, 34, 100).endswith("about 2.0 times.")


def test_a_corpus_takes_steps_of_its_own():
    config = Config.resolve("laptop", {"training.batch_size": 2, "training.gradient_accumulation": 3})
    said = steps_remark(config, 7, 100, 13)
    assert "13 rows of the corpus come first, once, in 3 steps of their own. The 4 planned steps end" in said
    assert said.endswith("71 rows are never seen.")  # the corpus leaves five places of its third step
    assert steps_remark(config, 19, 100, 13).endswith("The 16 planned steps see each of them about 0.9 times.")
    assert steps_remark(config, 20, 100, 13).endswith("see each of them once.")


def test_a_step_and_a_plan():
    assert "lowered the loss on its own row by 0.5000" in step_remark(3.0, 2.5)
    assert "raised the loss by 0.5000" in step_remark(2.5, 3.0)
    budget = {"minutes": 2.0, "memory_gib": 1.0}
    assert "1.50 times the plan. Memory came to 2.0 GiB more" in plan_remark(
        budget, {"seconds": 180, "peak_memory_gib": 3.0}
    )
    assert "3.00 times the plan. The speed was" in plan_remark(budget, {"seconds": 360, "peak_memory_gib": 0.9})
    assert plan_remark(budget, {"seconds": 360, "peak_memory_gib": 0.9}).endswith("0.9 times the plan.")


def test_every_lora_and_training_setting_is_put_in_words():
    config = Config.resolve("smoke")
    assert [*settings_in_words(config)] == [key for key in config.flat() if key.startswith(("lora.", "training."))]
