import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.manifest import digest_files, read_manifest, verify_files
from models.signature import trusted_key_path, verify_signature
from models.triton.text_encoder.encoder import TextEncoder
from optimize.engine import Profile
from optimize.errors import PackageError
from optimize.package import (
    CODE,
    CODE_FILES,
    TOKENIZER_CODE,
    Parts,
    assemble,
    publish,
    served_code_digest,
)
from optimize.proof import Proof
from optimize.quantize import fuse
from optimize.recipe import Recipe
from optimize.triton_config import read_config


@pytest.fixture
def parts(tiny_onnx: Path, tiny_model: Path) -> Parts:
    """The files of the tiny model."""
    return Parts(tiny_onnx, tiny_model / "tokenizer.json", data_sets=[], packages=[])


@pytest.fixture
def assembled(tiny_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path) -> Path:
    """The tiny model as a finished package step."""
    directory = tmp_path / "cache/package"
    directory.mkdir(parents=True)
    assemble(tiny_recipe, parts, proof, directory)
    (directory / "step.json").write_text("{}")
    return directory


@pytest.fixture
def other(tiny_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path) -> Path:
    """A finished package step of something else."""
    directory = tmp_path / "cache/other"
    shorter = tiny_recipe.model_copy(update={"max_tokens": 32})
    assemble(shorter, parts, proof.model_copy(update={"variant": "other"}), directory)
    (directory / "step.json").write_text("{}")
    return directory


def on_gpu(recipe: Recipe, **serving: object) -> Recipe:
    """The same recipe for a GPU node."""
    changed = recipe.serving.model_copy(update=serving)
    return recipe.model_copy(update={"target": "gpu", "serving": changed})


def snapshot(directory: Path) -> dict[Path, tuple[int, int]]:
    """The identity and the time of every file."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (directory, *directory.rglob("*"))
    }


def neighbours(repository: Path) -> list[str]:
    return sorted(path.name for path in repository.parent.iterdir())


def test_a_package_is_what_its_manifest_says(assembled: Path, tiny_recipe: Recipe, proof: Proof):
    (assembled / "step.json").unlink()
    manifest = read_manifest(assembled)
    verify_files(assembled, manifest)
    assert (manifest.name, manifest.variant) == ("search-encoder", "fp32")
    assert manifest.max_tokens == tiny_recipe.max_tokens
    assert manifest.max_batch_size == tiny_recipe.serving.max_batch_size
    assert manifest.evidence == proof.evidence
    assert set(manifest.files) == {
        "LICENCES.md",
        "sbom.cdx.json",
        "search-encoder/config.pbtxt",
        "search-encoder/warmup/question.bin",
        *(f"search-encoder/1/{name}" for name in CODE_FILES),
        *(f"search-encoder/1/{n}" for n in ("model.onnx", "tokenizer.json", "encoder.json")),
    }


def test_a_package_answers_like_the_encoder_that_was_measured(
    assembled: Path, tiny_encoder: TextEncoder, texts: list[str]
):
    packaged = TextEncoder.from_directory(assembled / "search-encoder/1")
    assert packaged.settings == tiny_encoder.settings
    answered, expected = packaged.encode(texts), tiny_encoder.encode(texts)
    np.testing.assert_allclose(answered.outputs, expected.outputs, atol=1e-6)
    assert answered.token_counts.tolist() == expected.token_counts.tolist()


def test_the_configuration_of_a_package_names_the_model_by_its_folder(assembled: Path):
    config = read_config(assembled / "search-encoder/config.pbtxt")
    assert config.name == "search-encoder"
    assert config.output[0].dims == [32]


def test_every_file_of_the_served_code_is_packaged_and_digested(
    tiny_recipe: Recipe,
    parts: Parts,
    proof: Proof,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    code = shutil.copytree(CODE, tmp_path / "code", ignore=shutil.ignore_patterns("__pycache__"))
    assert {path.name for path in code.glob("*.py")} == {
        *CODE_FILES,
        *TOKENIZER_CODE.values(),
        "__init__.py",
    }
    before = served_code_digest()
    monkeypatch.setattr("optimize.package.CODE", code)
    assert served_code_digest() == before
    (code / "batches.py").write_text("# other code\n")
    assert served_code_digest() != before
    assemble(tiny_recipe, parts, proof, tmp_path / "again")
    assert (tmp_path / "again/search-encoder/1/batches.py").read_text() == "# other code\n"


def test_the_same_model_packaged_twice_has_the_same_digest(
    assembled: Path, tiny_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path
):
    assemble(tiny_recipe, parts, proof, tmp_path / "again")
    assert read_manifest(tmp_path / "again").digest == read_manifest(assembled).digest


def test_a_first_publication_is_whole_and_has_no_step_record(assembled: Path, tmp_path: Path):
    repository = tmp_path / "not/there/yet/repository"
    published = publish(assembled, repository)
    assert (published.changed, published.digest) == (True, read_manifest(assembled).digest)
    verify_files(repository, read_manifest(repository))
    assert neighbours(repository) == ["repository"]


def test_the_same_repository_is_not_touched(assembled: Path, tmp_path: Path):
    repository = tmp_path / "repository"
    publish(assembled, repository)
    before = snapshot(repository)
    assert not publish(assembled, repository).changed
    assert snapshot(repository) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: (r / "search-encoder/1/model.onnx").write_bytes(b"damaged"),
        lambda r: (r / "search-encoder/config.pbtxt").unlink(),
        lambda r: (r / "stranger").write_text(""),
        lambda r: (r / "manifest.json").write_text("{"),
        lambda r: (r / "manifest.json").unlink(),
    ],
    ids=["damaged", "missing", "stranger", "no json", "no manifest"],
)
def test_a_repository_that_was_changed_is_replaced(assembled: Path, tmp_path: Path, spoil):
    repository = tmp_path / "repository"
    publish(assembled, repository)
    spoil(repository)
    assert publish(assembled, repository).changed
    verify_files(repository, read_manifest(repository))


def test_a_publication_is_signed(assembled: Path, tmp_path: Path):
    repository = tmp_path / "repository"
    publish(assembled, repository)
    verify_signature(repository, trusted_key_path(os.environ))


def test_a_published_repository_that_lost_its_signature_gets_a_new_one(
    assembled: Path, tmp_path: Path
):
    repository = tmp_path / "repository"
    publish(assembled, repository)
    (repository / "model.sig").unlink()
    assert not publish(assembled, repository).changed
    verify_signature(repository, trusted_key_path(os.environ))


def test_a_classifier_carries_the_names_of_its_classes(
    tiny_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path
):
    recipe = tiny_recipe.model_copy(update={"task": "classify"})
    labelled = proof.model_copy(update={"labels": [f"class {n}" for n in range(32)]})
    assemble(recipe, parts, labelled, tmp_path)
    config = read_config(tmp_path / "search-encoder/config.pbtxt")
    assert config.output[0].name == "probabilities"
    names = (tmp_path / "search-encoder" / config.output[0].label_filename).read_text()
    assert names.splitlines() == labelled.labels
    assert read_manifest(tmp_path).labels == labelled.labels


def test_a_fused_graph_is_not_packaged_for_tensorrt(
    tiny_recipe: Recipe,
    parts: Parts,
    proof: Proof,
    served_shapes: list[Profile],
    tmp_path: Path,
):
    fuse(parts.graph, tmp_path)
    recipe = on_gpu(tiny_recipe, core="onnxruntime_tensorrt")
    fused = replace(parts, graph=tmp_path / "model.onnx", profiles=served_shapes)
    with pytest.raises(PackageError, match=r"TensorRT cannot take .*Attention.*without -fused"):
        assemble(recipe, fused, proof, tmp_path / "repository")


def test_another_repository_is_replaced_whole(assembled: Path, other: Path, tmp_path: Path):
    repository = tmp_path / "repository"
    publish(other, repository)
    assert publish(assembled, repository).changed
    verify_files(repository, read_manifest(repository))
    assert neighbours(repository) == ["cache", "repository"]


@pytest.mark.parametrize("renamed", ["neither", "the old away", "both"])
def test_after_a_kill_at_any_rename_a_rerun_heals(
    assembled: Path, other: Path, tmp_path: Path, renamed: str
):
    repository = tmp_path / "repository"
    incoming, outgoing = tmp_path / ".repository.incoming", tmp_path / ".repository.outgoing"
    old = outgoing if renamed != "neither" else repository
    new = repository if renamed == "both" else incoming
    shutil.copytree(other, old)
    shutil.copytree(assembled, new, ignore=shutil.ignore_patterns("step.json"))
    publish(assembled, repository)
    verify_files(repository, read_manifest(repository))
    assert neighbours(repository) == ["cache", "repository"]


@pytest.mark.parametrize("stop", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("during", ["copytree", "rename"])
def test_a_publication_that_is_stopped_leaves_the_old_repository(
    assembled: Path,
    other: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: type[BaseException],
    during: str,
):
    repository = tmp_path / "repository"
    publish(other, repository)
    before = digest_files(repository)
    rename = Path.rename

    def stop_copying(_: Path, destination: Path, **__: object) -> None:
        destination.mkdir()
        raise stop

    def stop_renaming(path: Path, target: Path) -> Path:
        if path.name.endswith(".incoming"):
            raise stop
        return rename(path, target)

    with monkeypatch.context() as patch:
        if during == "copytree":
            patch.setattr(shutil, "copytree", stop_copying)
        else:
            patch.setattr(Path, "rename", stop_renaming)
        with pytest.raises(stop):
            publish(assembled, repository)
    assert digest_files(repository) == before
    assert neighbours(repository) == ["cache", "repository"]
