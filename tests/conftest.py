"""Fixtures that more than one folder of tests uses."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.manifest import Evidence, Manifest, Source
from models.signature import TRUSTED_KEY_VARIABLE
from optimize.recipe import Recipe, read_recipe
from optimize.sections import Evaluation, FolderData, Gate, SpeedRun
from optimize.sign import SIGNING_KEY_VARIABLE, make_keys
from optimize.steps import Workspace

ROOT = Path(__file__).resolve().parent.parent
PASSAGES = 120


@pytest.fixture(scope="session", autouse=True)
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The private key that everything in the tests signs with and trusts, never that of keys/."""
    private_key = tmp_path_factory.mktemp("keys") / "test.key"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(SIGNING_KEY_VARIABLE, str(private_key))
        environment.setenv(TRUSTED_KEY_VARIABLE, str(make_keys(private_key)))
        yield private_key


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The search-encoder recipe with INT8 alone, on little data and with a gate that lets it pass."""
    recipe = read_recipe(ROOT / "models/recipes/search-encoder.yaml")
    data = tmp_path_factory.mktemp("boolq")
    assert isinstance(recipe.evaluation.data, FolderData)
    cut_data(recipe.evaluation.data.folder, data)
    return recipe.model_copy(
        update={
            "variants": ("int8",),
            "distill": None,
            "evaluation": Evaluation(
                data=FolderData(folder=data), min_questions=50, min_passages=50
            ),
            "speed": SpeedRun(batch_sizes=(1, 8), rounds=4, token_lengths=(16,), length_rounds=4),
            "gate": Gate(max_relative_loss={"ndcg@10": 1.0}),
        }
    )


@pytest.fixture(scope="session")
def shared_workspace() -> Workspace:
    """The steps in build/cache, like everybody's: only the first session makes them."""
    return Workspace(ROOT / "build/cache", lambda *_: None)


@pytest.fixture(scope="session")
def packaged_repository(
    small_recipe: Recipe, shared_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A real repository: the real model, exported, quantized, measured and packaged."""
    from optimize.pipeline import optimize

    repository = tmp_path_factory.mktemp("packaged") / "repository"
    optimize(small_recipe, shared_workspace, repository, tmp_path_factory.mktemp("reports"))
    return repository


@pytest.fixture(scope="session")
def plain_manifest() -> Manifest:
    """A manifest that measured nothing and declares no file; tests copy it with what they need."""
    nothing_measured = Evidence(quality={}, speed=[], size_bytes=0)
    return Manifest(
        name="encoder",
        version=1,
        task="embed",
        target="cpu",
        variant="fp32",
        output_dim=1,
        space="",
        max_tokens=8,
        max_batch_size=8,
        digest="",
        files={},
        recipe_sha256="",
        source=Source(kind="directory", reference="", weights_sha256="", licence=""),
        evidence=nothing_measured,
        baseline=nothing_measured,
        gate=[],
        data_provenance=[],
        hardware={},
        tool_versions={},
        created_at="2026-01-01T00:00:00+00:00",
    )


def cut_data(source: Path, destination: Path) -> None:
    """The first passages with their questions, and all calibration texts."""
    passages = read_lines(source / "passages.jsonl.gz")[:PASSAGES]
    kept = {passage["id"] for passage in passages}
    questions = [q for q in read_lines(source / "questions.jsonl.gz") if q["passage_id"] in kept]
    write_lines(destination / "passages.jsonl.gz", passages)
    write_lines(destination / "questions.jsonl.gz", questions)
    write_lines(destination / "calibration.jsonl.gz", read_lines(source / "calibration.jsonl.gz"))


def read_lines(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode(), mtime=0))
