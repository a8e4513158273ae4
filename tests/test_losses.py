"""Letters' probabilities against one plain pass each, and the training loss against the model's own."""

import copy

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers import losses as losses_module
from helpers.losses import Forced, completion_loss, completion_nll, letter_probabilities
from helpers.prompts.encoding import encode_example, encode_prompt, encode_thought

OPTIONS = {"A": "Gentamicin", "B": "Ciprofloxacin", "C": "Ceftriaxone", "D": "Trimethoprim"}


@pytest.fixture(scope="module")
def opinionated(r1_tokenizer):
    """A random model whose letters' probabilities depend on what it reads."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(r1_tokenizer), initializer_range=0.5, **sizes))
    return model.train()


LEAD = "\n\nThe answer is ("


@pytest.fixture(scope="module")
def forced(sample_rows, r1_tokenizer):
    """Prompts and thoughts of many lengths."""
    rows = []
    for i, row in enumerate(sample_rows[:6]):
        prompt = encode_prompt(r1_tokenizer, row["Question"][: 40 * i])
        thought = encode_thought(r1_tokenizer, row["Complex_CoT"][: 30 * (7 - i)])
        rows.append(Forced([*prompt, *thought], LEAD, list("AB" if i == 4 else OPTIONS)))
    return rows


def plainly(model, tokenizer, ids, letters):
    """One row, without padding, positions or a shortened output."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return dict(zip(letters, logits[tokenizer.convert_tokens_to_ids(letters)].softmax(0).tolist(), strict=True))


@pytest.mark.parametrize("positions", [1, 400, 8192])
def test_letters_are_those_of_one_plain_pass_a_text(opinionated, forced, r1_tokenizer, monkeypatch, positions):
    monkeypatch.setattr("helpers.losses.POSITIONS_CPU", positions)
    seen = []
    watch = opinionated.register_forward_pre_hook(lambda _, __, named: seen.append(named["input_ids"].shape),
                                                  with_kwargs=True)  # fmt: skip
    try:
        found = letter_probabilities(opinionated, r1_tokenizer, forced)
    finally:
        watch.remove()
    lead = r1_tokenizer(LEAD, add_special_tokens=False)["input_ids"]
    for row, each in zip(forced, found, strict=True):
        assert each == pytest.approx(plainly(opinionated, r1_tokenizer, [*row.ids, *lead], row.letters), abs=1e-5)
    assert max(abs(found[0][letter] - found[1][letter]) for letter in OPTIONS) > 0.01
    assert opinionated.training  # as it was
    assert all(rows == 1 or rows * width <= positions for rows, width in seen)
    assert len(seen) == {1: 6, 8192: 1}.get(positions, len(seen))


def fast(model, splitter):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]")


@pytest.mark.parametrize("lead", ["The answer is (", "The answer is "])
def test_a_letter_that_is_a_token_of_its_own_is_told_by_its_second_token(lead):
    """Byte by byte: " A" is two tokens, of which only the second tells the letters apart."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = fast(BPE({c: i for i, c in enumerate(alphabet)}, []), ByteLevel(add_prefix_space=False))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes))
    [found] = letter_probabilities(model, tokenizer, [Forced([5, 6], lead, list(OPTIONS))])
    text = tokenizer(lead, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, *text]])).logits[0, -1]
    expected = logits[[alphabet.index(letter) for letter in OPTIONS]].softmax(0)
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert model.training


def test_letters_that_are_one_token_have_no_probabilities(opinionated):
    """A vocabulary without letters, and one that knows only A: then B and C would pass for the same."""
    for words in (["The", "answer", "is"], ["The", "answer", "is", "A"]):
        vocabulary = {word: i for i, word in enumerate(["[UNK]", *words])}
        tokenizer = fast(WordLevel(vocabulary, unk_token="[UNK]"), Whitespace())
        forced = [Forced([1], "The answer is ", list(OPTIONS))]
        assert letter_probabilities(opinionated, tokenizer, forced) == [None]


@pytest.mark.parametrize("count", [None, 37])
def test_the_training_loss_is_the_models_own_with_its_gradients(opinionated, sample_rows, r1_tokenizer, count):
    short = ({key: text[: 40 * n] for key, text in row.items()} for n, row in enumerate(sample_rows[:3], 1))
    rows = [encode_example(r1_tokenizer, row, 2048) for row in short]
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": r1_tokenizer.pad_token_id, "labels": -100}
    inputs = {
        key: torch.tensor([row[key] + [pad] * (width - len(row[key])) for row in rows]) for key, pad in fill.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    inputs["attention_mask"] = (torch.arange(width) < lengths[:, None]).long()

    def gradients(loss):
        opinionated.zero_grad()
        loss.backward()
        return [weight.grad.clone() for weight in opinionated.parameters()]

    own = opinionated(**inputs, **({} if count is None else {"num_items_in_batch": count})).loss
    ours = completion_loss(opinionated, inputs, count)
    torch.testing.assert_close(ours, own)
    torch.testing.assert_close(gradients(ours), gradients(own))


def test_a_batch_without_labels_costs_nothing(opinionated):
    """As the last of an epoch on several cards may be."""
    opinionated.zero_grad()
    loss = completion_loss(
        opinionated, {"input_ids": torch.tensor([[5, 5]]), "labels": torch.tensor([[-100, -100]])}, 7
    )
    loss.backward()
    assert loss.item() == 0
    assert all(not weight.grad.any() for weight in opinionated.parameters() if weight.grad is not None)


@pytest.fixture(scope="module")
def encoded(short_rows, r1_tokenizer):
    """Seven rows of many lengths, in no order: several batches of completion_nll, one of them a single long row."""
    long = {**short_rows[0], "Complex_CoT": " ".join(row["Complex_CoT"] for row in short_rows[:7] * 3)}
    rows = [*short_rows[6:10], {"Question": "?", "Complex_CoT": "", "Response": ""}, long, short_rows[0]]
    encoded = [encode_example(r1_tokenizer, row, 2048) for row in rows]
    assert len(encoded[5]["input_ids"]) > 1024
    return encoded


@pytest.fixture(scope="module")
def by_hand(base, encoded):
    return [nll_by_hand(base, row) for row in encoded]


def nll_by_hand(model, row):
    with torch.no_grad():
        logits = model(torch.tensor([row["input_ids"]])).logits[0].double()
    logs = torch.log_softmax(logits, dim=-1)
    # The logits at one place are about the token at the next.
    terms = [-logs[i - 1, label].item() for i, label in enumerate(row["labels"]) if label != -100]
    return sum(terms) / len(terms)


def test_completion_nll_is_the_mean_over_a_rows_own_completion(base, encoded, by_hand, r1_tokenizer):
    rows = completion_nll(base, encoded, r1_tokenizer.pad_token_id)
    assert rows == pytest.approx(by_hand, rel=1e-5)
    assert len({round(nll, 4) for nll in rows}) == len(rows)
    assert completion_nll(base, [], r1_tokenizer.pad_token_id) == []


def test_completion_nll_leaves_the_model_as_it_was(base, encoded, r1_tokenizer):
    model = copy.deepcopy(base)
    for training in (True, False):
        model.train(training)
        completion_nll(model, encoded[:1], r1_tokenizer.pad_token_id)
        assert model.training is training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_stay_as_small_as_the_model_makes_them(base, encoded, by_hand, r1_tokenizer, dtype, monkeypatch):
    """accelerate wraps the model that trains, and the wrapper makes float32 of 2,048 times 128,256 logits."""
    seen, usual, some = [], losses_module._label_nlls, encoded[3:5]  # few: a CPU is slow in half precision
    model = get_peft_model(copy.deepcopy(base).to(dtype), LoraConfig(target_modules="all-linear"))
    model.forward = convert_outputs_to_fp32(model.forward)
    assert model(torch.tensor([some[1]["input_ids"]])).logits.dtype == torch.float32
    monkeypatch.setattr(
        losses_module, "_label_nlls", lambda logits, labels: seen.append(logits.dtype) or usual(logits, labels)
    )
    rows = completion_nll(model, some, r1_tokenizer.pad_token_id)
    assert seen == [dtype] * 2
    assert rows == pytest.approx(by_hand[3:5], rel=0.01)
