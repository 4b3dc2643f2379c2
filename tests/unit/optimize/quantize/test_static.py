from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.triton.text_encoder.encoder import TextEncoder
from optimize.errors import QuantizeError
from optimize.quantize import quantize_int8, write_static_int8
from optimize.quantize.exclusion import NOTHING, Spared
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import Calibration, Quantize

from .conftest import Answers

METHODS = ("minmax", "percentile", "entropy")
FEW = Calibration(texts=64)

Write = Callable[..., Path]


@pytest.fixture
def write(
    tiny_onnx: Path, tiny_model: Path, tiny_recipe: Recipe, texts: list[str], tmp_path: Path
) -> Write:
    """Runs the step; returns its folder."""

    def run(
        name="static", graph=tiny_onnx, isa="avx512_vnni", texts=texts, spared=NOTHING, **section
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        quantize = Quantize(**{"calibration": FEW, **section})
        tokenizer, settings = tiny_model / "tokenizer.json", encoder_settings(tiny_recipe)
        write_static_int8(graph, tokenizer, texts, isa, quantize, settings, spared, folder)
        return folder

    return run


def mean_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found * expected).sum(axis=1).mean())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_graph_that_is_smaller_and_close_to_fp32(
    method,
    write: Write,
    answers: Answers,
    tiny_encoder: TextEncoder,
    tiny_onnx: Path,
    texts: list[str],
):
    folder = write(calibration=Calibration(method=method, texts=64), max_excluded=0)
    cosine = mean_cosine(answers(folder, texts), tiny_encoder.encode(texts).outputs)
    assert 0.9 < cosine < 1 - 1e-6
    assert (folder / "model.onnx").stat().st_size < tiny_onnx.stat().st_size
    assert method in (folder / "notes.json").read_text()


@pytest.mark.parametrize("isa", ["avx2", "arm64"])
def test_other_instruction_sets_are_close_to_fp32_too(
    isa, write: Write, answers: Answers, tiny_encoder: TextEncoder, texts: list[str]
):
    found = answers(write(isa=isa, max_excluded=0), texts)
    assert mean_cosine(found, tiny_encoder.encode(texts).outputs) > 0.9


def test_a_text_has_the_same_vector_alone_and_among_its_neighbours(
    write: Write, answers: Answers, tiny_onnx: Path, texts: list[str], tmp_path: Path
):
    static = write()
    quantize_int8(tiny_onnx, "avx512_vnni", True, tmp_path)
    apart = {
        folder: np.abs(
            np.concatenate([answers(folder, [text]) for text in texts[:12]])
            - answers(folder, texts[:12])
        ).max()
        for folder in (static, tmp_path)
    }
    assert apart[static] < 1e-5
    assert apart[tmp_path] > 1e-4  # dynamic INT8 is what this is better than


def test_only_products_with_weights_take_integers(write: Write):
    graph = onnx.load(write(max_excluded=0) / "model.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    takers = {
        node.op_type
        for node in graph.node
        if "/layer." in node.name and any(made_by.get(x) == "DequantizeLinear" for x in node.input)
    }
    assert takers == {"MatMul"}  # not the sums that carry an activation past a layer
    quantized = [n for n in graph.node if n.op_type == "MatMul" and is_integer(n, made_by)]
    assert len(quantized) == 2 * 6


def test_quantizing_twice_gives_the_same_bytes(write: Write):
    first, second = (write(name) / "model.onnx" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_too_few_calibration_texts_are_refused_saying_how_many_are_needed(
    write: Write, texts: list[str]
):
    with pytest.raises(QuantizeError, match="31 calibration texts: qdq variants need 32"):
        write(texts=texts[:31])


def test_the_most_sensitive_products_stay_in_fp32_until_the_limit_holds(
    write: Write, answers: Answers, tiny_encoder: TextEncoder, texts: list[str]
):
    expected = tiny_encoder.encode(texts).outputs
    whole = write("whole", max_excluded=0)
    without = mean_cosine(answers(whole, texts), expected)
    limit = (1 + 2 * without) / 3
    spared = write("spared", min_cosine=limit, max_excluded=12)
    assert mean_cosine(answers(spared, texts), expected) > without
    assert "left in FP32" in (spared / "notes.json").read_text()
    made_by = operators_by_output(spared)
    products = [n for n in onnx.load(spared / "model.onnx").graph.node if n.op_type == "MatMul"]
    quantized = sum(is_integer(node, made_by) for node in products)
    assert 0 < quantized < 12


def test_products_that_are_to_be_spared_stay_in_fp32_and_the_notes_say_why(write: Write):
    spared = write(min_cosine=0.0, spared=Spared(3))
    made_by = operators_by_output(spared)
    products = [n for n in onnx.load(spared / "model.onnx").graph.node if n.op_type == "MatMul"]
    assert sum(is_integer(node, made_by) for node in products) == 12 - 3
    notes = (spared / "notes.json").read_text()
    assert "at least 3 of them because with fewer the gate refused its quality" in notes


def test_a_fused_graph_is_refused_for_its_attention(write: Write, fused: Path):
    with pytest.raises(QuantizeError, match="qdq without -fused, or int8-fused"):
        write(graph=fused / "model.onnx")


def test_a_graph_whose_nodes_have_no_names_is_quantized_all_the_same(write: Write, spoiled):
    def forget_names(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = ""

    folder = write(graph=spoiled(forget_names), max_excluded=0)
    made_by = operators_by_output(folder)
    graph = onnx.load(folder / "model.onnx").graph
    assert sum(is_integer(n, made_by) for n in graph.node if n.op_type == "MatMul") == 12


def operators_by_output(folder: Path) -> dict[str, str]:
    graph = onnx.load(folder / "model.onnx").graph
    return {name: node.op_type for node in graph.node for name in node.output}


def is_integer(product: onnx.NodeProto, made_by: dict[str, str]) -> bool:
    """Whether both sides of a product come in eight bits."""
    return all(made_by.get(name) == "DequantizeLinear" for name in product.input)
