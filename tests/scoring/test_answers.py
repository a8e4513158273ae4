"""One side of a run: the adapter on or off, and where it may be merged."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.scoring.answers import adapter_switched


@pytest.mark.parametrize(("dtype", "merged"), [(torch.float32, True), (torch.bfloat16, False), (torch.float16, False)])
def test_the_adapter_is_added_only_into_weights_that_can_hold_it(base, dtype, merged):
    model = get_peft_model(copy.deepcopy(base).to(dtype), LoraConfig(target_modules="all-linear"))
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    with adapter_switched(model, "tuned"):
        assert (layer.merged, layer.disable_adapters) == (merged, False)
    assert not layer.merged
    with adapter_switched(model, "base"):
        assert (layer.merged, layer.disable_adapters) == (False, True)
