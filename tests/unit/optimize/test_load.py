from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.files import sha256_file
from models.manifest import Source
from optimize.errors import SourceError
from optimize.load import (
    SourceModel,
    fetch_source,
    open_source,
    read_pooling,
    source_identity,
)
from optimize.modules import PooledEncoder
from optimize.recipe import Recipe
from optimize.sections import PackageSource

POOLING = "1_Pooling/config.json"

WriteJson = Callable[[Path, Any], None]


def from_directory(recipe: Recipe, directory: Path) -> Recipe:
    source = recipe.source.model_copy(update={"directory": directory})
    return recipe.model_copy(update={"source": source})


def test_a_directory_becomes_a_described_copy(
    tiny_recipe: Recipe, tiny_model: Path, tmp_path: Path
):
    fetch_source(tiny_recipe, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "source.json"}
    described = Source.model_validate_json((tmp_path / "source.json").read_text())
    assert described.kind == "directory"
    assert described.reference == tiny_model.name
    assert described.licence == "none"
    assert described.weights_sha256 == sha256_file(tiny_model / "model.safetensors")


def test_a_folder_inside_a_package_becomes_a_described_copy(
    tiny_recipe: Recipe,
    tiny_model: Path,
    tmp_path: Path,
    make_wheel: Callable[[Path, dict[str, Any]], str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    sha256 = make_wheel(
        tmp_path, {f"parcel/model/{path.name}": path.read_bytes() for path in tiny_model.iterdir()}
    )
    source = PackageSource(
        kind="package", package="parcel==1.0", sha256=sha256, path="parcel/model", licence="MIT"
    )
    fetch_source(tiny_recipe.model_copy(update={"source": source}), tmp_path / "model")
    described = Source.model_validate_json((tmp_path / "model/source.json").read_text())
    assert described.reference == "parcel==1.0 parcel/model"
    assert described.weights_sha256 == sha256_file(tiny_model / "model.safetensors")


def test_a_directory_that_is_not_there_is_refused(tiny_recipe: Recipe, tmp_path: Path):
    recipe = from_directory(tiny_recipe, tmp_path / "nowhere")
    for use in (source_identity, lambda r: fetch_source(r, tmp_path / "copy")):
        with pytest.raises(SourceError, match=r"no model at .*nowhere: correct"):
            use(recipe)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tiny_recipe: Recipe, model_copy: Path, tmp_path: Path, name: str):
    (model_copy / name).unlink()
    with pytest.raises(SourceError, match=f"lacks {name}: a Hugging Face directory"):
        fetch_source(from_directory(tiny_recipe, model_copy), tmp_path / "copy")


def test_pickled_weights_are_never_opened(tiny_recipe: Recipe, model_copy: Path, tmp_path: Path):
    weights = model_copy / "model.safetensors"
    torch.save(load_file(weights), model_copy / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(SourceError, match="pickled weights can run code"):
        fetch_source(from_directory(tiny_recipe, model_copy), tmp_path / "copy")
    with pytest.raises(SourceError, match="cannot open the model"):
        open_source(model_copy, 64)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_refused_with_its_directory(model_copy: Path, name: str):
    path = model_copy / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=f"cannot open the model in {model_copy}"):
        open_source(model_copy, 64)


def test_weights_that_are_missing_are_not_made_up(
    model_copy: Path, drop_weights: Callable[[str], None]
):
    drop_weights("encoder.layer.1.")
    with pytest.raises(SourceError, match=r"lacks 16 tensors .*first: encoder\.layer\.1\."):
        open_source(model_copy, 64)


def test_a_model_without_a_pooler_is_whole(
    model_copy: Path, drop_weights: Callable[[str], None], tiny_source: SourceModel
):
    drop_weights("pooler.")
    same = open_source(model_copy, 64).encode(["a text"])
    assert np.array_equal(same, tiny_source.encode(["a text"]))


def test_more_tokens_than_the_model_has_positions_are_refused(tiny_model: Path):
    with pytest.raises(SourceError, match="max_tokens is 65 but the model ends at 64: lower it"):
        open_source(tiny_model, 65)


@pytest.mark.parametrize(
    ("modes", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
    ],
)
def test_the_pooling_file_decides(
    tmp_path: Path, write_json: WriteJson, modes: dict[str, bool], pooling: str
):
    write_json(tmp_path / POOLING, {"word_output_dimension": 32, **modes})
    assert read_pooling(tmp_path) == pooling


def test_without_a_pooling_file_it_is_the_mean(tmp_path: Path):
    assert read_pooling(tmp_path) == "mean"


@pytest.mark.parametrize(
    "modes",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": False},
    ],
)
def test_another_pooling_is_refused(tmp_path: Path, write_json: WriteJson, modes: dict[str, bool]):
    write_json(tmp_path / POOLING, modes)
    with pytest.raises(SourceError, match="only mean or CLS pooling is supported"):
        read_pooling(tmp_path)


def test_mean_pooling_leaves_padding_out_and_cls_takes_the_first_token(tiny_source: SourceModel):
    transformer = tiny_source.module.encoder
    ids = torch.tensor([[2, 10, 11, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.inference_mode():
        hidden = transformer(input_ids=ids, attention_mask=mask).last_hidden_state[0]
        mean = PooledEncoder(transformer, "mean")(ids, mask)[0]
        first = PooledEncoder(transformer, "cls")(ids, mask)[0]
    expected = hidden[:4].mean(0)
    torch.testing.assert_close(mean, expected / expected.norm())
    torch.testing.assert_close(first, hidden[0] / hidden[0].norm())


def test_a_changed_file_of_a_directory_is_another_source(
    tiny_recipe: Recipe, model_copy: Path, write_json: WriteJson
):
    recipe = from_directory(tiny_recipe, model_copy)
    before = source_identity(recipe)
    assert source_identity(recipe) == before
    write_json(model_copy / POOLING, {"pooling_mode_cls_token": True})
    with_pooling = source_identity(recipe)
    (model_copy / "config.json").write_text((model_copy / "config.json").read_text() + "\n")
    assert len({str(one) for one in (before, with_pooling, source_identity(recipe))}) == 3


def test_the_source_answers_in_order_with_unit_vectors(tiny_source: SourceModel, texts: list[str]):
    vectors = tiny_source.encode(texts)
    alone = np.concatenate([tiny_source.encode([text]) for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_pooling_file_is_named(tmp_path: Path, content: str):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(content)
    with pytest.raises(SourceError, match="is not a JSON object"):
        read_pooling(tmp_path)
