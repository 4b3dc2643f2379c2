from pathlib import Path

import numpy as np
import pytest

from models.triton.text_encoder.encoder import TextEncoder, open_session
from optimize.load import SourceModel
from optimize.quantize import detect_isa, quantize_int8
from optimize.recipe import Recipe, encoder_settings

ISAS = ("avx2", "avx512", "avx512_vnni", "arm64")


@pytest.mark.parametrize("isa", ISAS)
def test_int8_is_smaller_and_answers_close_to_fp32(
    isa,
    tiny_recipe: Recipe,
    tiny_source: SourceModel,
    tiny_onnx: Path,
    tiny_encoder: TextEncoder,
    texts: list[str],
    tmp_path: Path,
):
    quantize_int8(tiny_onnx, isa, tmp_path)
    path, settings = tmp_path / "model.onnx", encoder_settings(tiny_recipe)
    int8 = TextEncoder(open_session(path, settings), tiny_source.tokenizer, settings)
    expected = tiny_encoder.encode(texts).outputs
    answered = int8.encode(texts).outputs
    cosines = (answered * expected).sum(axis=1)
    assert cosines.min() > 0.95
    assert cosines.min() < 1 - 1e-6  # it did something
    np.testing.assert_allclose(np.linalg.norm(answered, axis=1), 1, atol=1e-5)
    assert path.stat().st_size < tiny_onnx.stat().st_size


def test_quantizing_twice_gives_the_same_bytes(tiny_onnx: Path, tmp_path: Path):
    for name in ("first", "second"):
        quantize_int8(tiny_onnx, "avx2", tmp_path / name)
    first, second = ((tmp_path / n / "model.onnx").read_bytes() for n in ("first", "second"))
    assert first == second


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
