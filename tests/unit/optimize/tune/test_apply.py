from collections.abc import Callable
from pathlib import Path

import pytest

from models.manifest import read_manifest, verify_files
from models.signature import verify_signature
from optimize.recipe import Recipe
from optimize.sections import Gate, Serving, Tune
from optimize.tune.apply import Tuned, find_tuned, keep_tuned, publish_tuned, tuning_key

Parameters = dict[str, int]


@pytest.fixture
def tuned(parameters: Parameters, make_tuned: Callable[[Parameters], Tuned]) -> Tuned:
    return make_tuned(parameters)


@pytest.fixture
def files(tiny_onnx: Path, tiny_model: Path) -> tuple[Path, Path]:
    return tiny_onnx, tiny_model / "tokenizer.json"


def test_a_published_repository_is_whole_signed_and_says_why(
    repository: Path, tiny_recipe: Recipe, tuned: Tuned, signing_key: Path, tmp_path: Path
):
    before = read_manifest(repository)
    published = publish_tuned(tiny_recipe, repository, tuned, repository, tmp_path)
    manifest = read_manifest(repository)
    verify_files(repository, manifest)
    verify_signature(repository, signing_key.with_suffix(".pub"))
    assert published.changed
    assert manifest.digest == published.digest != before.digest
    assert manifest.tuning == tuned.tuning
    assert manifest.max_batch_size == tuned.parameters["max_batch_size"]
    assert manifest.evidence == before.evidence


def test_publishing_the_same_again_changes_nothing(
    repository: Path, tiny_recipe: Recipe, tuned: Tuned, tmp_path: Path
):
    publish_tuned(tiny_recipe, repository, tuned, tmp_path / "there", tmp_path)
    again = publish_tuned(tiny_recipe, repository, tuned, tmp_path / "there", tmp_path)
    assert not again.changed


def test_a_later_packaging_finds_what_was_chosen_for_the_same_model(
    tiny_recipe: Recipe, files: tuple[Path, Path], tuned: Tuned, tmp_path: Path
):
    assert find_tuned(tiny_recipe, *files, tmp_path) is None
    keep_tuned(tuned, tuning_key(tiny_recipe, *files), tmp_path)
    found = find_tuned(tiny_recipe, *files, tmp_path)
    assert found == tuned
    assert found.recipe(tiny_recipe).serving.instances == 2


def test_what_is_not_searched_comes_from_the_recipe(tiny_recipe: Recipe, tuned: Tuned):
    recipe = tiny_recipe.model_copy(update={"serving": Serving(vectors="int8")})
    assert tuned.recipe(recipe).serving.vectors == "int8"


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"tune": Tune(trials=99, probe_s=9.0, seed=7)}, True),
        ({"gate": Gate(max_memory_mib=1)}, True),
        ({"tune": Tune(max_p99_ms=20.0)}, False),
        ({"serving": Serving(max_batch_size=32)}, False),
    ],
)
def test_only_what_decides_the_result_makes_another_key(
    tiny_recipe: Recipe, files: tuple[Path, Path], changed: dict[str, object], same: bool
):
    other = tiny_recipe.model_copy(update=changed)
    assert (tuning_key(other, *files) == tuning_key(tiny_recipe, *files)) == same


def test_another_model_has_another_key(
    tiny_recipe: Recipe, files: tuple[Path, Path], tmp_path: Path
):
    graph = tmp_path / "model.onnx"
    graph.write_bytes(files[0].read_bytes() + b"\0")
    assert tuning_key(tiny_recipe, graph, files[1]) != tuning_key(tiny_recipe, *files)


def test_a_record_that_cannot_be_read_is_none(
    tiny_recipe: Recipe, files: tuple[Path, Path], tmp_path: Path
):
    (tmp_path / f"{tuning_key(tiny_recipe, *files)}.json").write_text('{"parameters": 3}')
    assert find_tuned(tiny_recipe, *files, tmp_path) is None
