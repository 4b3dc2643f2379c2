import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.triton.text_encoder.encoder import TextEncoder
from optimize.errors import QuantizeError
from optimize.quantize import fuse
from optimize.quantize.fuse import runtime_operators

from .conftest import Answers


def test_a_fused_graph_answers_as_before(
    fused: Path, tiny_encoder: TextEncoder, answers: Answers, texts: list[str]
):
    expected = tiny_encoder.encode(texts).outputs
    np.testing.assert_allclose(answers(fused, texts), expected, atol=1e-5)


def test_attention_and_embeddings_are_one_operator_each(fused: Path):
    operators = [node.op_type for node in onnx.load(fused / "model.onnx").graph.node]
    assert operators.count("Attention") == 2
    assert operators.count("EmbedLayerNormalization") == 1


def test_what_is_slower_fused_is_left_apart(fused: Path):
    assert not runtime_operators(fused / "model.onnx") & {"SkipLayerNormalization", "BiasGelu"}


def test_the_graph_keeps_its_inputs_and_its_output(fused: Path, tiny_onnx: Path):
    before, after = onnx.load(tiny_onnx).graph, onnx.load(fused / "model.onnx").graph
    for kind in ("input", "output"):
        old, new = getattr(before, kind), getattr(after, kind)
        assert [value.name for value in new] == [value.name for value in old]


def test_the_notes_count_what_was_fused_and_name_the_runtime(fused: Path):
    sentences = json.loads((fused / "notes.json").read_text())
    assert "2 Attention" in sentences[0]
    assert "ONNX Runtime" in sentences[-1]
    assert "opset 17" in sentences[-1]


def test_operators_of_onnx_runtime_alone_are_told_from_standard_ones(fused: Path, tiny_onnx: Path):
    assert {"Attention", "EmbedLayerNormalization"} <= runtime_operators(fused / "model.onnx")
    assert runtime_operators(tiny_onnx) == set()


def test_a_graph_without_anything_to_fuse_is_refused(fused: Path, tmp_path: Path):
    with pytest.raises(QuantizeError, match="drop the -fused variants"):
        fuse(fused / "model.onnx", tmp_path)
