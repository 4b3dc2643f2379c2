from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.errors import SourceError
from optimize.load_onnx import adopt_graph, open_graph

VOCABULARY, DIM = 100, 8


def graph(
    path: Path,
    *,
    rank: int = 3,
    width: int = DIM,
    vocabulary: int = VOCABULARY,
    output: str = "last_hidden_state",
    damaged: bool = False,
    operator: str = "Gather",
    extra_output: str | None = None,
) -> Path:
    """A graph that looks tokens up; of rank 2 it averages them."""
    table = np.random.default_rng(0).normal(size=(vocabulary, width)).astype(np.float32)
    if damaged:
        table[3, 3] = np.nan
    nodes = [helper.make_node(operator, ["table", "input_ids"], ["vectors"])]
    dims = ["batch", "tokens", width]
    if rank == 2:
        nodes.append(helper.make_node("ReduceMean", ["vectors"], [output], axes=[1], keepdims=0))
        dims = ["batch", width]
    else:
        nodes.append(helper.make_node("Identity", ["vectors"], [output]))
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, dims)]
    if extra_output:
        nodes.append(helper.make_node("Identity", [output], [extra_output]))
        outputs.append(helper.make_tensor_value_info(extra_output, TensorProto.FLOAT, dims))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    whole = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(table, "table")]
    )
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.fixture
def tokenizer(tiny_model: Path) -> Path:
    return tiny_model / "tokenizer.json"


def test_token_vectors_are_pooled_and_normalised_in_the_graph(tmp_path: Path, tokenizer: Path):
    adopt_graph(graph(tmp_path / "g.onnx"), tokenizer, "embed", tmp_path)
    model = open_graph(tmp_path, 16)
    alone, both = model.encode(["abc"]), model.encode(["abc", "a much longer text"])
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(alone[0], both[0], atol=1e-6)  # padding does not count
    assert [node.name for node in model.session.get_outputs()] == ["embedding"]


def test_logits_become_probabilities(tmp_path: Path, tokenizer: Path):
    path = graph(tmp_path / "g.onnx", rank=2, width=5, output="logits")
    adopt_graph(path, tokenizer, "classify", tmp_path)
    probabilities = open_graph(tmp_path, 16).encode(["abc", "def"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_reranker_scores_pairs(tmp_path: Path, tokenizer: Path):
    path = graph(tmp_path / "g.onnx", rank=2, width=1, output="logits")
    adopt_graph(path, tokenizer, "rerank", tmp_path)
    scores = open_graph(tmp_path, 16).encode([("a", "b"), ("a", "c")])
    assert scores.shape == (2, 1)


def test_of_several_outputs_the_one_with_the_usual_name_is_served(tmp_path: Path, tokenizer: Path):
    path = graph(tmp_path / "g.onnx", extra_output="hidden_1")
    adopt_graph(path, tokenizer, "embed", tmp_path)
    assert open_graph(tmp_path, 16).encode(["abc"]).shape == (1, DIM)


@pytest.mark.parametrize(
    ("changes", "task", "words"),
    [
        ({"damaged": True}, "embed", "table holds NaN or infinity"),
        ({"vocabulary": 10}, "embed", "tokens but the model only 10: it is another model's"),
        ({"operator": "Scry"}, "embed", "cannot run g.onnx: .*Scry"),
        ({"output": "one", "extra_output": "two"}, "embed", "outputs one, two: none is called"),
        ({"rank": 3}, "classify", "has 3 dimensions, which is nothing that classify can use"),
        ({"rank": 2, "width": 3}, "rerank", "one score, this graph gives 3"),
    ],
)
def test_a_graph_that_cannot_be_served_is_refused_with_its_reason(
    tmp_path: Path, tokenizer: Path, changes: dict[str, object], task: str, words: str
):
    path = graph(tmp_path / "g.onnx", **changes)
    with pytest.raises(SourceError, match=words):
        adopt_graph(path, tokenizer, task, tmp_path)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, tokenizer: Path):
    path = tmp_path / "g.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(SourceError, match="not an ONNX graph that can be read"):
        adopt_graph(path, tokenizer, "embed", tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path: Path):
    path = graph(tmp_path / "g.onnx")
    with pytest.raises(SourceError, match=r"no file at .*tokenizer"):
        adopt_graph(path, tmp_path / "tokenizer.json", "embed", tmp_path)
