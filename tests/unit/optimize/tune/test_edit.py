from pathlib import Path

import pytest

from models.manifest import ManifestError, digest_files
from optimize.errors import TuneError
from optimize.package import Parts, assemble
from optimize.proof import Proof
from optimize.recipe import Recipe
from optimize.triton_config import read_config
from optimize.tune.edit import check_repository, write_edited
from optimize.tune.space import recipe_with

Parameters = dict[str, int]


def contents(repository: Path) -> dict[str, bytes]:
    paths = (path for path in repository.rglob("*") if path.is_file())
    return {path.relative_to(repository).as_posix(): path.read_bytes() for path in paths}


def test_an_edited_copy_is_what_packaging_with_these_parameters_gives(
    repository: Path,
    tiny_recipe: Recipe,
    tiny_onnx: Path,
    tiny_model: Path,
    proof: Proof,
    parameters: Parameters,
    tmp_path: Path,
):
    write_edited(tiny_recipe, repository, parameters, tmp_path / "edited")
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    parts = Parts(tiny_onnx, tiny_model / "tokenizer.json", [], [])
    assemble(recipe_with(tiny_recipe, parameters), parts, proof, packaged)
    assert digest_files(tmp_path / "edited") == digest_files(packaged)


def test_the_original_stays_what_it_was_and_its_graph_is_not_copied(
    repository: Path, tiny_recipe: Recipe, parameters: Parameters, tmp_path: Path
):
    before = contents(repository)
    write_edited(tiny_recipe, repository, parameters, tmp_path / "edited")
    assert contents(repository) == before
    graph = "search-encoder/1/model.onnx"
    assert (tmp_path / "edited" / graph).samefile(repository / graph)


def test_the_parameters_are_in_what_triton_reads(
    repository: Path, tiny_recipe: Recipe, parameters: Parameters, tmp_path: Path
):
    write_edited(tiny_recipe, repository, parameters, tmp_path / "edited")
    config = read_config(tmp_path / "edited/search-encoder/config.pbtxt")
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.instance_group[0].count == 2
    assert max(sample.batch_size for sample in config.model_warmup) == 16


def test_what_was_tuned_before_may_be_tuned_again(
    repository: Path, tiny_recipe: Recipe, parameters: Parameters, tmp_path: Path
):
    write_edited(tiny_recipe, repository, parameters, tmp_path / "edited")
    (tmp_path / "edited/manifest.json").write_bytes((repository / "manifest.json").read_bytes())
    assert check_repository(tiny_recipe, tmp_path / "edited").name == tiny_recipe.name


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"max_tokens": 32}, "max_tokens differ"),
        ({"name": "another"}, "it holds search-encoder"),
        ({"target": "gpu"}, "embedded Triton"),
    ],
)
def test_a_repository_of_another_recipe_is_refused(
    repository: Path, tiny_recipe: Recipe, changed: dict[str, object], words: str
):
    with pytest.raises(TuneError, match=words):
        check_repository(tiny_recipe.model_copy(update=changed), repository)


def test_a_repository_that_older_code_serves_is_refused(repository: Path, tiny_recipe: Recipe):
    (repository / "search-encoder/1/batches.py").write_text("# older\n")
    with pytest.raises(TuneError, match="make optimize"):
        check_repository(tiny_recipe, repository)


def test_nothing_packaged_is_said_to_be_so(tiny_recipe: Recipe, tmp_path: Path):
    with pytest.raises(ManifestError, match="make optimize"):
        check_repository(tiny_recipe, tmp_path)
