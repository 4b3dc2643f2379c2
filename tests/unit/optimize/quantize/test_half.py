from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from models.triton.text_encoder.encoder import TextEncoder
from optimize.quantize import quantize_half
from optimize.quantize.half import LOWEST, constants_of

from .conftest import Answers


def test_fp16_answers_close_to_fp32_also_where_texts_are_padded(
    tiny_onnx: Path, tiny_encoder: TextEncoder, answers: Answers, texts: list[str], tmp_path: Path
):
    quantize_half(tiny_onnx, tmp_path)
    unlike = [min(texts, key=len), max(texts, key=len)]  # one run: most of the first is padding
    for some in (texts, unlike):
        found = answers(tmp_path, some)
        assert np.isfinite(found).all()
        assert (found * tiny_encoder.encode(some).outputs).sum(axis=1).min() > 0.999


def test_weights_take_half_the_space_and_inputs_and_outputs_keep_their_types(
    tiny_onnx: Path, tmp_path: Path
):
    quantize_half(tiny_onnx, tmp_path)
    graph, before = onnx.load(tmp_path / "model.onnx").graph, onnx.load(tiny_onnx).graph
    for kind in ("input", "output"):
        types = [[v.type.tensor_type.elem_type for v in getattr(g, kind)] for g in (graph, before)]
        assert types[0] == types[1]
    assert weight_bytes(graph) < 0.6 * weight_bytes(before)


def test_no_constant_is_beyond_what_fp16_holds(tiny_onnx: Path, tmp_path: Path):
    before = [numpy_helper.to_array(holder) for holder in constants_of(onnx.load(tiny_onnx))]
    floats = [values for values in before if values.dtype == np.float32 and values.size]
    assert min(values.min() for values in floats) < np.finfo(np.float16).min  # the mask
    quantize_half(tiny_onnx, tmp_path)
    after = [
        numpy_helper.to_array(holder) for holder in constants_of(onnx.load(tmp_path / "model.onnx"))
    ]
    halves = [values for values in after if values.dtype == np.float16 and values.size]
    assert all(np.isfinite(values).all() for values in halves)
    assert min(values.min() for values in halves) == np.float16(LOWEST)


def weight_bytes(graph: onnx.GraphProto) -> int:
    return sum(len(tensor.raw_data) for tensor in graph.initializer)
