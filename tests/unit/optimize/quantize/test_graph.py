import json
from pathlib import Path

import onnx
import pytest

from optimize.errors import QuantizeError
from optimize.quantize import fuse, quantize_half, quantize_int8
from optimize.quantize.graph import weight_products


def int8(graph: Path, destination: Path) -> None:
    quantize_int8(graph, "avx512_vnni", True, destination)


@pytest.mark.parametrize("make", [int8, fuse, quantize_half])
def test_an_operator_that_nobody_knows_is_named_with_what_to_do(make, spoiled, tmp_path: Path):
    def invent(model: onnx.ModelProto) -> None:
        model.graph.node[-1].op_type = "Teleport"

    with pytest.raises(QuantizeError, match=r"(?s)Teleport.*export it with another opset"):
        make(spoiled(invent), tmp_path)


@pytest.mark.parametrize("make", [int8, fuse, quantize_half])
def test_a_file_that_is_no_graph_is_refused(make, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(QuantizeError, match=r"cannot run model\.onnx"):
        make(path, tmp_path)


def test_a_graph_with_its_weights_beside_it_is_refused(tiny_onnx: Path, tmp_path: Path):
    path = tmp_path / "model.onnx"
    beside = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 0}
    onnx.save(onnx.load(tiny_onnx), path, **beside)
    with pytest.raises(QuantizeError, match="quantize a smaller model"):
        int8(path, tmp_path)


def test_the_products_of_a_bert_are_six_a_layer_each_with_what_it_is_of(tiny_onnx: Path):
    model = onnx.load(tiny_onnx)
    products = weight_products(model)
    assert len(products) == 2 * 6
    made = {name for node in model.graph.node for name in node.output}
    assert set(products.values()) <= made


def test_the_notes_say_for_which_runtime_and_opset(tiny_onnx: Path, tmp_path: Path):
    int8(tiny_onnx, tmp_path)
    sentences = json.loads((tmp_path / "notes.json").read_text())
    assert sentences[0].startswith("dynamic INT8")
    assert "opset 17" in sentences[-1]
