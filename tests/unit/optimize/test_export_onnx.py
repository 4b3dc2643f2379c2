from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from optimum.exporters.tasks import TasksManager

from models.triton.text_encoder.encoder import TextEncoder
from optimize.errors import ExportError
from optimize.export_onnx import check_parity, export_onnx
from optimize.load import SourceModel
from optimize.recipe import Recipe, encoder_settings

LIMIT = 1e-4


def test_the_graph_takes_any_batch_and_length_and_returns_one_vector(tiny_onnx: Path):
    graph = onnx.load(tiny_onnx).graph
    dims = {
        node.name: [d.dim_param or d.dim_value for d in node.type.tensor_type.shape.dim]
        for node in (*graph.input, *graph.output)
    }
    assert set(dims) == {"input_ids", "attention_mask", "token_type_ids", "embedding"}
    assert all(isinstance(size, str) for size in dims["input_ids"])
    assert len(dims["embedding"]) == 2


@pytest.mark.parametrize("case", ["one text", "64 texts", "the longest text", "an empty text"])
def test_the_graph_answers_like_its_source(
    tiny_source: SourceModel, tiny_encoder: TextEncoder, texts: list[str], case: str
):
    asked = {
        "one text": texts[:1],
        "64 texts": texts[:64],
        "the longest text": [" ".join(texts)],
        "an empty text": [""],
    }[case]
    answered = tiny_encoder.encode(asked).outputs
    np.testing.assert_allclose(answered, tiny_source.encode(asked), atol=LIMIT)
    np.testing.assert_allclose(np.linalg.norm(answered, axis=1), 1, atol=1e-5)


def test_different_texts_get_different_vectors(tiny_encoder: TextEncoder, texts: list[str]):
    similarity = tiny_encoder.encode(texts[:2]).outputs
    assert similarity[0] @ similarity[1] < 0.999


def test_parity_is_reported_for_batch_1_batch_64_and_the_longest_sequence(
    tiny_recipe: Recipe, tiny_source: SourceModel, tiny_onnx: Path, texts: list[str]
):
    errors = check_parity(tiny_source, tiny_onnx, encoder_settings(tiny_recipe), texts, LIMIT)
    assert set(errors) == {"batch 1", "batch 64", "longest sequence"}
    assert 0 < max(errors.values()) <= LIMIT


@pytest.mark.parametrize("spoil", [lambda w: w * 1.5, lambda w: w * np.nan], ids=["other", "nan"])
def test_a_graph_that_answers_differently_is_refused(
    tiny_recipe: Recipe,
    tiny_source: SourceModel,
    tiny_onnx: Path,
    texts: list[str],
    tmp_path: Path,
    spoil,
):
    model = onnx.load(tiny_onnx)
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.CopyFrom(numpy_helper.from_array(spoil(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        ExportError, match=r"the exported graph is off by .* the recipe allows 0\.0001"
    ):
        check_parity(
            tiny_source, tmp_path / "model.onnx", encoder_settings(tiny_recipe), texts, LIMIT
        )


def test_exporting_twice_gives_the_same_bytes(
    tiny_source: SourceModel, tiny_onnx: Path, tmp_path: Path
):
    export_onnx(tiny_source, 17, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == tiny_onnx.read_bytes()


def test_an_architecture_that_optimum_does_not_know_is_refused(
    tiny_source: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unknown(*_: object, **__: object) -> None:
        raise KeyError("alien is not supported yet")

    monkeypatch.setattr(TasksManager, "get_exporter_config_constructor", unknown)
    with pytest.raises(ExportError, match=r"optimum cannot export this architecture: .*alien"):
        export_onnx(tiny_source, 17, tmp_path / "model.onnx")
