"""Letters' probabilities against one plain pass each, and the training loss against the model's own."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers.losses import Forced, completion_loss, letter_probabilities
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
