from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from optimize.errors import RecipeError, SourceError
from optimize.init import student_layers, write_recipe
from optimize.recipe import read_recipe
from optimize.sections import DirectorySource, LabelledFiles, OnnxSource, PairFiles
from tests.unit.optimize.test_load_onnx import graph


@pytest.fixture
def beside_tokenizer(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder with a tokenizer, for graphs and heads."""
    (tmp_path / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    return tmp_path


def classifier(folder: Path, labels: int) -> Path:
    config = BertConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=labels,
    )
    BertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)
    return folder


def test_an_encoder_directory_gets_a_recipe_that_reads(tiny_model: Path, tmp_path: Path):
    data = tmp_path / "mine.csv"
    data.write_text("query,answer\nwhy?,because\n")
    write_recipe(tiny_model, None, data, tmp_path / "my-model.yaml", force=False)
    recipe = read_recipe(tmp_path / "my-model.yaml")
    assert (recipe.name, recipe.task, recipe.max_tokens) == ("my-model", "embed", 64)
    assert recipe.source == DirectorySource(
        kind="directory",
        directory=tiny_model,
        licence="unknown, look it up before you serve it",
    )
    assert isinstance(recipe.evaluation.data, PairFiles)
    assert (recipe.evaluation.data.question, recipe.evaluation.data.passage) == ("query", "answer")


@pytest.mark.parametrize(("labels", "task"), [(1, "rerank"), (4, "classify")])
def test_the_task_follows_the_head(beside_tokenizer: Path, labels: int, task: str):
    output = beside_tokenizer / "r.yaml"
    write_recipe(classifier(beside_tokenizer, labels), None, None, output, force=False)
    recipe = read_recipe(output)
    assert recipe.task == task
    if task == "classify":
        assert isinstance(recipe.evaluation.data, LabelledFiles)
        assert recipe.fine_tune is not None


@pytest.mark.parametrize(
    ("width", "rank", "task"), [(8, 3, "embed"), (1, 2, "rerank"), (5, 2, "classify")]
)
def test_a_raw_graph_gets_variants_that_can_be_made_of_it(
    beside_tokenizer: Path, width: int, rank: int, task: str
):
    path = graph(beside_tokenizer / "g.onnx", rank=rank, width=width)
    write_recipe(path, None, None, beside_tokenizer / "r.yaml", force=False)
    recipe = read_recipe(beside_tokenizer / "r.yaml")
    assert recipe.task == task
    assert isinstance(recipe.source, OnnxSource)
    assert recipe.variants[0] == "given"


def test_a_recipe_that_is_there_is_not_overwritten_without_force(tiny_model: Path, tmp_path: Path):
    output = tmp_path / "recipe.yaml"
    output.write_text("mine")
    with pytest.raises(RecipeError, match="add --force"):
        write_recipe(tiny_model, None, None, output, force=False)
    assert output.read_text() == "mine"
    write_recipe(tiny_model, None, None, output, force=True)
    assert read_recipe(output).task == "embed"


def test_a_model_of_another_kind_is_refused_with_what_can_be_used(model_copy: Path, tmp_path: Path):
    (model_copy / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(SourceError, match="is a llama: recipes are for encoders"):
        write_recipe(model_copy, None, None, tmp_path / "r.yaml", force=False)


@pytest.mark.parametrize(
    ("layers", "kept"), [(3, [0, 2]), (6, [0, 5]), (12, [0, 4, 7, 11]), (24, 8)]
)
def test_a_student_keeps_a_third_of_the_layers_with_the_first_and_the_last(
    layers: int, kept: list[int] | int
):
    found = student_layers(layers)
    if isinstance(kept, int):
        assert (len(found), found[0], found[-1]) == (kept, 0, layers - 1)
    else:
        assert found == kept
