"""Rounding a GGUF file: which tensor gets which type, and that llama.cpp's kernels did what their formats promise."""

import numpy as np
import pytest
from conftest import fails
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize

from helpers.export import quantise as module
from helpers.export.quantise import quantise, tensor_types

WIDE, NARROW, ODD = 512, 96, 40  # divided by blocks of 256, of 32, and of neither


def llama(layers=16, columns=WIDE, tied=False):
    """GGUF's shapes, the length of a row first."""
    shapes = {"token_embd.weight": [columns, 64], "output_norm.weight": [columns]}
    for i in range(layers):
        shapes |= {
            f"blk.{i}.{name}.weight": [columns, 32] for name in ("attn_q", "attn_k", "attn_v", "ffn_up", "ffn_down")
        }
        shapes[f"blk.{i}.attn_norm.weight"] = [columns]
    return shapes if tied else shapes | {"output.weight": [columns, 64]}


def test_q4_k_m_gives_six_bits_to_the_head_and_to_every_layer_that_llama_cpp_favours():
    types = tensor_types(llama(), "q4_k_m")
    six = {name for name, type_ in types.items() if type_ == Type.Q6_K}
    favoured = (0, 1, 4, 7, 10, 13, 14, 15)  # the first and last eighth, and each third layer in between
    expected = {f"blk.{i}.{name}.weight" for i in favoured for name in ("attn_v", "ffn_down")}
    assert six == expected | {"output.weight"}
    assert set(types.values()) == {Type.Q4_K, Type.Q6_K}
    assert not any("norm" in name for name in types)

    tied = tensor_types(llama(tied=True), "q4_k_m")
    assert (tied["token_embd.weight"], types["token_embd.weight"]) == (Type.Q6_K, Type.Q4_K)


@pytest.mark.parametrize(
    ("columns", "four", "six", "eight"),
    [(WIDE, Type.Q4_K, Type.Q6_K, Type.Q8_0), (NARROW, Type.Q5_0, Type.Q8_0, Type.Q8_0), (ODD, *[Type.F16] * 3)],
)
def test_rows_that_blocks_do_not_divide_get_what_fits(columns, four, six, eight):
    types = tensor_types(llama(columns=columns), "q4_k_m")
    assert (types["blk.0.attn_q.weight"], types["blk.0.attn_v.weight"]) == (four, six)
    assert set(tensor_types(llama(columns=columns), "q8_0").values()) == {eight}


@pytest.fixture(params=[np.float16, np.float32])
def source(tmp_path, request):
    """A small file with one matrix of each width, a norm, and metadata of several kinds."""
    writer = GGUFWriter(tmp_path / "model-f16.gguf", "llama")
    writer.add_block_count(1)
    writer.add_name("small")
    writer.add_array("tokenizer.ggml.tokens", ["a", "ß", "<｜end｜>"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0, 2.0])
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    numbers = np.random.default_rng(0)
    for name, columns in (("attn_q", WIDE), ("attn_v", WIDE), ("ffn_up", NARROW), ("ffn_gate", ODD)):
        writer.add_tensor(f"blk.0.{name}.weight", numbers.normal(0, 0.02, (300, columns)).astype(request.param))
    writer.add_tensor("output_norm.weight", numbers.normal(1, 0.1, WIDE).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFReader(tmp_path / "model-f16.gguf")


def weights(tensor):
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_weights_stay_as_close_as_their_type_can_hold_them_and_all_else_is_copied(tmp_path, source, kind):
    made = GGUFReader(quantise(source, tmp_path / f"model-{kind}.gguf", kind))
    bounds = {Type.Q8_0: 0.01, Type.Q6_K: 0.03, Type.Q5_0: 0.06, Type.Q4_K: 0.09, Type.F16: 1e-3, Type.F32: 0.0}
    for before, after in zip(source.tensors, made.tensors, strict=True):
        assert before.name == after.name
        exact, rounded = weights(before), weights(after)
        error = np.sqrt(((exact - rounded) ** 2).mean() / (exact**2).mean())
        assert error <= bounds[after.tensor_type], (after.name, after.tensor_type, error)
        if after.tensor_type == Type.Q4_K:
            assert error > 0.02  # it is rounded at all
    kept = {name for name in source.fields if not name.startswith("GGUF.")} - {"general.file_type"}
    for name in kept:
        assert made.fields[name].contents() == source.fields[name].contents(), name
        assert made.fields[name].types == source.fields[name].types, name
    assert made.fields["general.file_type"].contents() == module.FILE_TYPES[kind]
    assert made.fields["general.quantization_version"].contents() == 2


def test_q8_0_is_the_formats_definition_byte_for_byte(tmp_path, source):
    """By gguf's own NumPy code, which shares nothing with the kernel."""
    made = {tensor.name: tensor for tensor in GGUFReader(quantise(source, tmp_path / "q8.gguf", "q8_0")).tensors}
    for tensor in source.tensors:
        if made[tensor.name].tensor_type == Type.Q8_0:
            expected = quantize(weights(tensor).astype(np.float32), Type.Q8_0)
            assert np.array_equal(made[tensor.name].data, expected)


def test_many_small_chunks_give_what_one_large_one_gives(tmp_path, source, monkeypatch):
    whole = quantise(source, tmp_path / "whole.gguf", "q4_k_m").read_bytes()
    monkeypatch.setattr(module, "CHUNK", 1000)
    assert quantise(source, tmp_path / "parts.gguf", "q4_k_m").read_bytes() == whole


def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path, source, monkeypatch):
    target = tmp_path / "model-q8_0.gguf"
    target.write_bytes(b"older")

    monkeypatch.setattr(module, "_quantised", fails(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        quantise(source, target, "q8_0")
    assert target.read_bytes() == b"older"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model-f16.gguf", "model-q8_0.gguf"]
