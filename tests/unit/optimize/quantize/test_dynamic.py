from pathlib import Path

import numpy as np
import onnx
import pytest

from models.triton.text_encoder.encoder import TextEncoder
from optimize.errors import QuantizeError
from optimize.quantize import detect_isa, quantize_int8

from .conftest import Answers

ISAS = ("avx2", "avx512", "avx512_vnni", "arm64")
# Signed weights may overflow 16-bit sums on an x86 CPU without VNNI, which this machine's may be.
LEAST_COSINE = 0.95
LEAST_COSINE_WITH_OVERFLOW = 0.85


def least_cosine(isa: str) -> float:
    """How close the vectors of a graph laid out for `isa` must be to FP32's on this machine."""
    signed = isa in ("avx512_vnni", "arm64")
    overflows = signed and detect_isa() in ("avx2", "avx512")
    return LEAST_COSINE_WITH_OVERFLOW if overflows else LEAST_COSINE


@pytest.mark.parametrize("isa", ISAS)
def test_int8_is_smaller_and_answers_close_to_fp32(
    isa,
    tiny_onnx: Path,
    tiny_encoder: TextEncoder,
    answers: Answers,
    texts: list[str],
    tmp_path: Path,
):
    quantize_int8(tiny_onnx, isa, True, tmp_path)
    expected, answered = tiny_encoder.encode(texts).outputs, answers(tmp_path, texts)
    cosines = (answered * expected).sum(axis=1)
    assert cosines.min() > least_cosine(isa)
    assert cosines.min() < 1 - 1e-6  # it did something
    np.testing.assert_allclose(np.linalg.norm(answered, axis=1), 1, atol=1e-5)
    assert (tmp_path / "model.onnx").stat().st_size < tiny_onnx.stat().st_size


def test_quantizing_twice_gives_the_same_bytes(tiny_onnx: Path, tmp_path: Path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        quantize_int8(tiny_onnx, "avx2", True, tmp_path / name)
    first, second = ((tmp_path / n / "model.onnx").read_bytes() for n in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_without_vnni_weights_are_unsigned_so_that_16_bit_sums_cannot_overflow(
    isa, tiny_onnx: Path, tmp_path: Path
):
    quantize_int8(tiny_onnx, isa, False, tmp_path)
    assert stored_types(tmp_path / "model.onnx") == {onnx.TensorProto.UINT8}


@pytest.mark.parametrize("fuse_first", [False, True])
def test_the_embedding_table_is_quantized_only_where_asked(
    fuse_first, tiny_onnx: Path, fused: Path, tmp_path: Path
):
    graph = fused / "model.onnx" if fuse_first else tiny_onnx
    sizes = {}
    for table in (False, True):
        folder = tmp_path / str(table)
        folder.mkdir()
        quantize_int8(graph, "avx512_vnni", table, folder)
        sizes[table] = float_values(folder / "model.onnx")
    table_values = 32 * (len_of_vocabulary(tiny_onnx) + 64)
    assert sizes[False] - sizes[True] >= table_values


def test_a_fused_graph_is_quantized_with_its_attention(
    fused: Path, tiny_encoder: TextEncoder, answers: Answers, texts: list[str], tmp_path: Path
):
    quantize_int8(fused / "model.onnx", "avx512_vnni", True, tmp_path)
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("QAttention") == 2
    assert "MatMul" not in operators
    cosines = (answers(tmp_path, texts) * tiny_encoder.encode(texts).outputs).sum(axis=1)
    assert cosines.min() > least_cosine("avx512_vnni")


def test_a_graph_that_is_quantized_already_is_refused(tiny_onnx: Path, tmp_path: Path):
    quantize_int8(tiny_onnx, "avx512_vnni", True, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(QuantizeError, match="quantized already"):
        quantize_int8(tmp_path / "model.onnx", "avx512_vnni", True, again)


@pytest.mark.parametrize(
    ("machine", "flags", "isa"),
    [
        ("x86_64", "fpu sse4_2 avx2 avx512f avx512_vnni", "avx512_vnni"),
        ("x86_64", "fpu sse4_2 avx2 avx512f", "avx512"),
        ("x86_64", "fpu sse4_2 avx2 avx512_vnni_not", "avx2"),
        ("x86_64", "", "avx2"),
        ("aarch64", "asimd", "arm64"),
        ("arm64", "", "arm64"),
    ],
)
def test_the_instruction_set_is_read_off_the_cpu(
    tmp_path: Path, machine: str, flags: str, isa: str
):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n")
    assert detect_isa(cpuinfo, machine) == isa


def test_a_machine_without_cpuinfo_gets_the_most_modest_layout(tmp_path: Path):
    assert detect_isa(tmp_path / "none", "x86_64") == "avx2"


def stored_types(graph: Path) -> set[int]:
    """The integer types of the quantized weights."""
    tensors = onnx.load(graph).graph.initializer
    return {t.data_type for t in tensors if t.name.endswith("_quantized")}


def float_values(graph: Path) -> int:
    """How many FP32 numbers a graph holds."""
    tensors = onnx.load(graph).graph.initializer
    return sum(int(np.prod(t.dims)) for t in tensors if t.data_type == onnx.TensorProto.FLOAT)


def len_of_vocabulary(graph: Path) -> int:
    """Rows of the table of words."""
    tensors = onnx.load(graph).graph.initializer
    return next(t.dims[0] for t in tensors if "word_embeddings" in t.name)
