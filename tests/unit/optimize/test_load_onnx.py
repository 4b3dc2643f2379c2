from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification

from models.triton.text_encoder.encoder import TextEncoder
from optimize.errors import SourceError
from optimize.load_onnx import adopt_graph, external_files, open_graph, refuse_unwieldy
from optimize.quantize import quantize_int8, write_static_int8
from optimize.quantize.exclusion import NOTHING
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import Quantize

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
    last: str = "Identity",
    opset: int = 17,
    mask: bool = True,
    **attributes: Any,
) -> Path:
    """A graph that looks tokens up; of rank 2 it averages them, of rank 1 it sums all up."""
    table = np.random.default_rng(0).normal(size=(vocabulary, width)).astype(np.float32)
    if damaged:
        table[3, 3] = np.nan
    nodes = [helper.make_node(operator, ["table", "input_ids"], ["vectors"])]
    dims = ["batch", "tokens", width]
    if rank == 2:
        nodes.append(helper.make_node("ReduceMean", ["vectors"], [output], axes=[1], keepdims=0))
        dims = ["batch", width]
    elif rank == 1:
        nodes.append(helper.make_node("ReduceMean", ["vectors"], [output], axes=[1, 2], keepdims=0))
        dims = ["batch"]
    else:
        nodes.append(helper.make_node(last, ["vectors"], [output], **attributes))
    number = attributes.get("to", TensorProto.FLOAT)
    outputs = [helper.make_tensor_value_info(output, number, dims)]
    if extra_output:
        nodes.append(helper.make_node("Identity", [output], [extra_output]))
        outputs.append(helper.make_tensor_value_info(extra_output, TensorProto.FLOAT, dims))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", *(["attention_mask"] if mask else []))
    ]
    whole = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(table, "table")]
    )
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)])
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


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20])
def test_graphs_of_old_and_new_opsets_are_pooled_alike(tmp_path: Path, tokenizer: Path, opset: int):
    adopt_graph(graph(tmp_path / "g.onnx", opset=opset), tokenizer, "embed", tmp_path)
    table = np.random.default_rng(0).normal(size=(VOCABULARY, DIM)).astype(np.float32)
    ids = Tokenizer.from_file(str(tokenizer)).encode("abc").ids
    mean = table[ids].mean(axis=0)
    vectors = open_graph(tmp_path, 16).encode(["abc", "a longer one"])
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_graph_is_pooled_by_its_first_token_where_that_is_asked_for(
    tmp_path: Path, tokenizer: Path
):
    path = graph(tmp_path / "g.onnx")
    adopt_graph(path, tokenizer, "embed", tmp_path, pooling="cls")
    vectors = open_graph(tmp_path, 16).encode(["abc", "something else"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)  # both begin with [CLS]


def test_a_graph_without_a_mask_gets_one_to_be_pooled_with(tmp_path: Path, tokenizer: Path):
    adopt_graph(graph(tmp_path / "g.onnx", mask=False), tokenizer, "embed", tmp_path)
    model = open_graph(tmp_path, 16)
    alone, both = model.encode(["abc"]), model.encode(["abc", "a much longer text"])
    np.testing.assert_allclose(alone[0], both[0], atol=1e-6)


def test_half_precision_outputs_are_served_as_single(tmp_path: Path, tokenizer: Path):
    path = graph(tmp_path / "g.onnx", last="Cast", to=TensorProto.FLOAT16)
    adopt_graph(path, tokenizer, "embed", tmp_path)
    (output,) = open_graph(tmp_path, 16).session.get_outputs()
    assert output.type == "tensor(float)"


def test_our_own_graph_brought_back_answers_as_before(
    tmp_path: Path, tiny_onnx: Path, tiny_model: Path, tiny_encoder: TextEncoder
):
    adopt_graph(tiny_onnx, tiny_model / "tokenizer.json", "embed", tmp_path)
    items = ["a question", "another one, longer"]
    vectors = open_graph(tmp_path, 64).encode(items)
    np.testing.assert_allclose(vectors, tiny_encoder.encode(items).outputs, atol=1e-6)


def test_weights_in_files_of_their_own_come_along(tmp_path: Path, tokenizer: Path):
    path = graph(tmp_path / "g.onnx")
    model = onnx.load(path)
    beside = {"save_as_external_data": True, "location": "g.onnx_data", "size_threshold": 0}
    onnx.save(model, path, **beside)
    assert external_files(path) == [tmp_path / "g.onnx_data"]
    (tmp_path / "out").mkdir()
    adopt_graph(path, tokenizer, "embed", tmp_path / "out")
    (tmp_path / "g.onnx_data").unlink()
    assert open_graph(tmp_path / "out", 16).encode(["abc"]).shape == (1, DIM)
    with pytest.raises(SourceError, match=r"keeps weights in g\.onnx_data, not found"):
        adopt_graph(path, tokenizer, "embed", tmp_path / "out")


def test_probabilities_are_not_softened_again(tmp_path: Path, tokenizer: Path):
    path = graph(tmp_path / "g.onnx", rank=2, width=5, output="logits")
    (tmp_path / "once").mkdir()
    adopt_graph(path, tokenizer, "classify", tmp_path / "once")
    (tmp_path / "twice").mkdir()
    adopt_graph(tmp_path / "once/model.onnx", tokenizer, "classify", tmp_path / "twice")
    once, twice = (open_graph(tmp_path / f, 16).encode(["abc"]) for f in ("once", "twice"))
    np.testing.assert_allclose(once, twice, atol=1e-6)


def test_scores_without_a_column_get_one(tmp_path: Path, tokenizer: Path):
    adopt_graph(graph(tmp_path / "g.onnx", rank=1), tokenizer, "rerank", tmp_path)
    assert open_graph(tmp_path, 16).encode([("a", "b"), ("a", "c")]).shape == (2, 1)


def test_a_reranker_in_fp32_can_be_quantized(
    tmp_path: Path, tokenizer: Path, cross_encoder: Path, tiny_recipe: Recipe
):
    for folder in ("given", "int8", "qdq"):
        (tmp_path / folder).mkdir()
    adopt_graph(cross_encoder, tokenizer, "rerank", tmp_path / "given")
    pairs = [(f"question {n}", f"an answer to number {n}") for n in range(40)]
    scores = [open_graph(tmp_path / "given", 64).encode(pairs)]
    settings = encoder_settings(tiny_recipe.model_copy(update={"task": "rerank"}))
    given = tmp_path / "given/model.onnx"
    quantize_int8(given, "avx2", True, tmp_path / "int8")
    write_static_int8(
        given, tokenizer, pairs, "avx2", Quantize(), settings, NOTHING, tmp_path / "qdq"
    )
    for folder in ("int8", "qdq"):
        (tmp_path / folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        scores.append(open_graph(tmp_path / folder, 64).encode(pairs))
    given_scores, *quantized = (values.ravel() for values in scores)
    for values in quantized:
        assert np.corrcoef(given_scores, values)[0, 1] > 0.9
        assert not np.array_equal(given_scores, values)


@pytest.fixture
def cross_encoder(tiny_model: Path, tmp_path: Path) -> Path:
    """A cross-encoder in FP32 as transformers' users export it: logits, and no more."""
    torch.manual_seed(1)
    config = BertConfig.from_pretrained(tiny_model, num_labels=1)
    model = BertForSequenceClassification(config).eval()
    feed = {
        name: torch.ones(2, 9, dtype=torch.int64)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    path = tmp_path / "cross.onnx"
    shape = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        model,
        (),
        str(path),
        kwargs=feed,
        input_names=list(feed),
        output_names=["logits"],
        dynamic_axes=dict.fromkeys(feed, shape),
        opset_version=17,
        dynamo=False,
    )
    return path


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
        ({"rank": 2, "width": 1}, "classify", "one number a text, not classes"),
        ({"last": "Cast", "to": TensorProto.INT64}, "embed", "holds int64, not numbers of a model"),
        ({"last": "Sqrt"}, "embed", "answers with NaN"),
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


def test_a_graph_ends_where_its_positions_end(tmp_path: Path, tiny_onnx: Path, tiny_model: Path):
    with pytest.raises(SourceError, match=r"does not run on two texts of up to 65 tokens.*lower"):
        adopt_graph(tiny_onnx, tiny_model / "tokenizer.json", "embed", tmp_path, max_tokens=65)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(SourceError, match="not a fast tokenizer"):
        adopt_graph(graph(tmp_path / "g.onnx"), path, "embed", tmp_path)


def test_a_graph_too_large_for_one_file_is_refused_with_its_size(tmp_path: Path):
    path = tmp_path / "g.onnx"
    with path.open("wb") as stream:
        stream.truncate(3 * 10**9)  # takes no room on the disk
    with pytest.raises(SourceError, match=r"has 3\.0 GB of weights"):
        refuse_unwieldy([path])
