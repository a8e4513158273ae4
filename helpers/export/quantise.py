"""A GGUF file quantised by llama.cpp's own kernels.

No Python package has `llama-quantize`, but xllamacpp's library, which runs the exported files, holds its kernels. Which
tensor gets which type follows src/llama-quant.cpp, for dense models below 70B, without an importance matrix.
"""

import ctypes
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFWriter, LlamaFileType
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quant_shape_to_byte_shape

from helpers import InputError
from helpers.files import publish

FILE_TYPES = {"q8_0": LlamaFileType.MOSTLY_Q8_0, "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M}
QUANTIZATION_VERSION = 2  # ggml's number for the layout of its blocks
CHUNK = 2**20  # weights that a thread takes at a time: 4 MiB in float32
# What describes the file, not the model; GGUFWriter writes the first of them by itself.
WRITTEN_ANEW = ("general.architecture", "general.file_type", "general.quantization_version")


def quantise(source: GGUFReader, target: Path, kind: str) -> Path:
    """Write `target`, atomically: the GGUF file `source` (f32, f16 or bf16) quantised to `kind`, q8_0 or q4_k_m.

    Everything else, tokenizer and template included, is copied. One tensor is in memory at a time.
    """
    types = {tensor.name: tensor.tensor_type for tensor in source.tensors}
    types |= tensor_types({tensor.name: tensor.shape.tolist() for tensor in source.tensors}, kind)
    temporary = target.with_name(f".{target.name}.tmp")
    architecture = source.get_field("general.architecture").contents()
    try:
        with closing(GGUFWriter(temporary, architecture)) as writer, ThreadPoolExecutor() as pool:
            _write_head(source, writer, types, kind)
            for tensor in source.tensors:
                same = types[tensor.name] == tensor.tensor_type
                writer.write_tensor_data(tensor.data if same else _quantised(tensor, types[tensor.name], pool))
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def tensor_types(shapes: Mapping[str, list[int]], kind: str) -> dict[str, Type]:
    """The type of every tensor that is quantised, by name; `shapes` are GGUF's, (columns, rows)."""
    matrices = {name: shape for name, shape in shapes.items() if len(shape) > 1 and not name.endswith("_norm.weight")}
    layers = 1 + max((_layer(name) for name in matrices if name.startswith("blk.")), default=0)
    head = "output.weight" if "output.weight" in shapes else "token_embd.weight"  # the two can be one tensor
    wanted = {name: Type.Q8_0 if kind == "q8_0" else _q4_k_m(name, layers, head) for name in matrices}
    return {name: _fitting(wanted[name], shape[0]) for name, shape in matrices.items()}


def _q4_k_m(name: str, layers: int, head: str) -> Type:
    """llama.cpp's mixture: Q6_K for the head, and in about half the layers for attention values and ffn_down."""
    if name == head:
        return Type.Q6_K
    if name.endswith(("attn_v.weight", "attn_qkv.weight", "ffn_down.weight")):
        layer, eighth = _layer(name), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            return Type.Q6_K
    return Type.Q4_K


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def _fitting(wanted: Type, columns: int) -> Type:
    """`wanted`, or llama.cpp's fallback where its blocks do not divide a row: blocks of 32 with more bits, then f16."""
    smaller = {Type.Q4_K: Type.Q5_0, Type.Q6_K: Type.Q8_0}
    for type_ in (wanted, smaller.get(wanted, wanted)):
        if columns % GGML_QUANT_SIZES[type_][0] == 0:
            return type_
    return Type.F16


def _write_head(source: GGUFReader, writer: GGUFWriter, types: Mapping[str, Type], kind: str) -> None:
    """Metadata and tensor infos, which precede the weights."""
    writer.data_alignment = source.alignment
    for field in source.fields.values():
        if field.name not in WRITTEN_ANEW and not field.name.startswith("GGUF."):
            whole, *inner = field.types
            writer.add_key_value(field.name, field.contents(), whole, inner[-1] if inner else None)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(QUANTIZATION_VERSION)
    for tensor in source.tensors:
        shape, to = tensor.shape.tolist()[::-1], types[tensor.name]  # GGUF gives (columns, rows)
        size = int(np.prod(quant_shape_to_byte_shape(shape, to)))
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _quantised(tensor: Any, to: Type, pool: ThreadPoolExecutor) -> np.ndarray:
    """The tensor's data as `to`, uint8 (rows, bytes a row); threads help, since kernel and NumPy release the GIL."""
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    columns = int(tensor.shape[0])
    result = np.empty(quant_shape_to_byte_shape((len(rows), columns), to), np.uint8)
    step = max(1, CHUNK // columns)

    def work(start: int) -> None:
        chunk = np.ascontiguousarray(dequantize(rows[start : start + step], tensor.tensor_type), np.float32)
        part = result[start : start + step]
        if to == Type.F16:
            part[:] = chunk.astype(np.float16).view(np.uint8)
        else:
            _kernel()(to, chunk.ctypes.data, part.ctypes.data, 0, len(chunk), columns, None)

    for _ in pool.map(work, range(0, len(rows), step)):  # raises what a thread raised
        pass
    return result


@cache
def _kernel() -> Any:
    """ggml_quantize_chunk(type, float32 rows, result, first weight, rows, columns, importances) -> bytes written."""
    from xllamacpp import xllamacpp

    try:
        kernel = ctypes.CDLL(xllamacpp.__file__).ggml_quantize_chunk
    except AttributeError:
        raise InputError("this build of xllamacpp hides llama.cpp's quantiser: set export.gguf=f16") from None
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    kernel.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    kernel.restype = ctypes.c_size_t
    return kernel
