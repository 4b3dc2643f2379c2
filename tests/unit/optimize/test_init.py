import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from optimize.errors import RecipeError, SourceError
from optimize.init import student_layers, write_recipe
from optimize.quantize import quantize_int8
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


# Transformers writes the names of classes only when there are not two.
@pytest.mark.parametrize(("labels", "task"), [(1, "rerank"), (2, "classify"), (4, "classify")])
def test_the_task_follows_the_head(beside_tokenizer: Path, labels: int, task: str):
    output = beside_tokenizer / "r.yaml"
    write_recipe(classifier(beside_tokenizer, labels), None, None, output, force=False)
    recipe = read_recipe(output)
    assert recipe.task == task
    if task == "classify":  # its head is kept, so its classes must be named in their order
        assert recipe.fine_tune is None
        assert isinstance(recipe.evaluation.data, LabelledFiles)
        assert recipe.evaluation.data.labels == tuple(map(str, range(labels)))


def test_an_encoder_that_is_to_classify_gets_a_head_trained(tiny_model: Path, tmp_path: Path):
    write_recipe(tiny_model, "classify", None, tmp_path / "r.yaml", force=False)
    assert read_recipe(tmp_path / "r.yaml").fine_tune is not None


def test_classes_are_spelt_as_in_the_data_and_stay_in_the_order_of_the_model(
    beside_tokenizer: Path,
):
    model = classifier(beside_tokenizer, 3)
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": "POSITIVE", "1": "NEGATIVE", "2": "NEUTRAL"}
    (model / "config.json").write_text(json.dumps(config))
    data = beside_tokenizer / "mine.csv"
    data.write_text("Text,Label\na,negative\nb,neutral\nc,positive\n")
    write_recipe(model, None, data, beside_tokenizer / "r.yaml", force=False)
    found = read_recipe(beside_tokenizer / "r.yaml").evaluation.data
    assert isinstance(found, LabelledFiles)
    assert (found.text, found.label) == ("Text", "Label")
    assert found.labels == ("positive", "negative", "neutral")


def test_names_that_mean_something_in_yaml_stay_names(model_copy: Path, tmp_path: Path):
    model = model_copy.rename(tmp_path / "my: model #1")
    data = tmp_path / "{data} & more.jsonl"
    data.write_text(json.dumps({"Frage: kurz": "a", "[Antwort]": "b"}) + "\n")
    output = tmp_path / "new/Mein Modell ü2.yaml"
    write_recipe(model, None, data, output, force=False)
    recipe = read_recipe(output)
    assert recipe.name == "mein-modell-2"
    assert isinstance(recipe.source, DirectorySource)
    assert recipe.source.directory == model
    assert isinstance(recipe.evaluation.data, PairFiles)
    assert recipe.evaluation.data.pairs == data
    assert recipe.evaluation.data.question == "Frage: kurz"
    assert recipe.evaluation.data.passage == "[Antwort]"


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model", "apache-2.0"),
        ("---\nlicense:\n- mit\n---\n", "mit"),
        ("license: only mentioned in the text", "unknown, look it up before you serve it"),
    ],
)
def test_the_licence_is_that_of_the_front_matter(
    model_copy: Path, tmp_path: Path, readme: str, licence: str
):
    (model_copy / "README.md").write_text(readme)
    write_recipe(model_copy, None, None, tmp_path / "r.yaml", force=False)
    assert read_recipe(tmp_path / "r.yaml").source.licence == licence


def test_max_tokens_is_what_was_published_and_what_the_positions_have_room_for(
    model_copy: Path, tmp_path: Path, write_json: Callable[[Path, object], None]
):
    config = json.loads((model_copy / "config.json").read_text())
    write_json(model_copy / "config.json", {**config, "model_type": "roberta", "pad_token_id": 1})
    write_recipe(model_copy, None, None, tmp_path / "r.yaml", force=False)
    assert read_recipe(tmp_path / "r.yaml").max_tokens == config["max_position_embeddings"] - 2
    write_json(model_copy / "sentence_bert_config.json", {"max_seq_length": 32})
    write_recipe(model_copy, None, None, tmp_path / "r.yaml", force=True)
    assert read_recipe(tmp_path / "r.yaml").max_tokens == 32


def test_a_graph_that_is_quantized_already_is_only_served(tmp_path: Path, tiny_onnx: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "onnx").mkdir()
    copied = tmp_path / "onnx/model.onnx"
    copied.write_bytes(tiny_onnx.read_bytes())
    write_recipe(copied, None, None, tmp_path / "r.yaml", force=False)
    assert read_recipe(tmp_path / "r.yaml").variants == ("given", "int8", "qdq")
    quantize_int8(tiny_onnx, "avx2", True, tmp_path / "onnx")
    write_recipe(copied, None, None, tmp_path / "r.yaml", force=True)
    assert read_recipe(tmp_path / "r.yaml").variants == ("given",)


def test_a_damaged_configuration_is_named(model_copy: Path, tmp_path: Path):
    (model_copy / "config.json").write_text("[broken")
    with pytest.raises(SourceError, match=r"config\.json is not a JSON object"):
        write_recipe(model_copy, None, None, tmp_path / "r.yaml", force=False)


def test_a_graph_without_its_tokenizer_is_refused(tmp_path: Path):
    path = graph(tmp_path / "g.onnx")
    with pytest.raises(SourceError, match=r"no tokenizer\.json beside"):
        write_recipe(path, None, None, tmp_path / "r.yaml", force=False)


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
