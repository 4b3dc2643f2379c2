"""The chosen variant as a Triton repository with its manifest, published whole."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

import models.triton.text_encoder as text_encoder
from models.files import sha256_file
from models.manifest import (
    MANIFEST_NAME,
    Manifest,
    combined_digest,
    digest_files,
    read_manifest,
    write_manifest,
)
from models.triton.text_encoder.encoder import SETTINGS_NAME
from optimize.core_files import GRAPH, PLAN, fill_core
from optimize.engine import Profile
from optimize.ensemble import (
    core_name,
    ensemble_configs,
    tokenizer_name,
    tokenizer_settings,
    write_ids_warmup,
)
from optimize.graph_facts import graph_facts
from optimize.proof import Proof
from optimize.recipe import Recipe, encoder_settings
from optimize.sbom import Bill, DataSet, Package, write_bill
from optimize.sign import sign_repository
from optimize.steps import RECORD_NAME, sync_tree
from optimize.triton_config import (
    CONFIG_NAME,
    LABELS_FILE,
    MODEL_VERSION,
    WARMUP_FILE,
    read_config,
    text_encoder_config,
    warmup_bytes,
    write_config,
)

TOKENIZER_SETTINGS = "tokenizer_settings.json"
CODE = Path(text_encoder.__path__[0])
CODE_FILES = ("model.py", "encoder.py", "batches.py", "tokens.py", "vectors.py")
TOKENIZER_CODE = {"model.py": "tokenizer_model.py", "tokens.py": "tokens.py"}


@dataclass(frozen=True)
class Parts:
    """The files that a repository is made of, and what its bill of materials says beside them.

    `graph` is an ONNX graph; `engines` are TensorRT engines of it by compute capability, and `profiles`
    the shapes that they are built for.
    """

    graph: Path
    tokenizer: Path
    data_sets: Sequence[DataSet]
    packages: Sequence[Package]
    engines: Mapping[str, Path] = field(default_factory=dict)
    profiles: Sequence[Profile] = ()


def served_code_digest() -> str:
    """The digest of the code that is packaged, and measured, beside the graph."""
    names = (*CODE_FILES, *TOKENIZER_CODE.values())
    return combined_digest({name: sha256_file(CODE / name) for name in names})


def configs_of(recipe: Recipe, proof: Proof, parts: Parts) -> list[pb.ModelConfig]:
    """The configurations of every model of a repository, the one that clients ask first."""
    if recipe.target == "cpu":
        return [text_encoder_config(recipe, proof)]
    return ensemble_configs(recipe, proof, graph_facts(parts.graph), parts.profiles)


def assemble(recipe: Recipe, parts: Parts, proof: Proof, repository: Path) -> None:
    """The package step: a complete repository in an empty directory. Raises PackageError."""
    for config in configs_of(recipe, proof, parts):
        folder = repository / config.name
        (folder / str(MODEL_VERSION)).mkdir(parents=True)
        write_config(folder / CONFIG_NAME, config)
    if recipe.target == "cpu":
        fill_encoder(recipe, parts, repository / recipe.name)
    else:
        fill_ensemble(recipe, parts, repository)
    if proof.labels:
        lines = "".join(f"{label}\n" for label in proof.labels)
        (repository / recipe.name / LABELS_FILE).write_text(lines)
    write_bill(bill_of(recipe, parts, proof, repository), repository)
    write_manifest(repository, describe(recipe, proof, digest_files(repository)))


def fill_encoder(recipe: Recipe, parts: Parts, folder: Path) -> None:
    """Everything that one process needs to encode: graph, tokenizer, settings, code, warm-up text."""
    version = folder / str(MODEL_VERSION)
    shutil.copyfile(parts.graph, version / GRAPH)
    shutil.copyfile(parts.tokenizer, version / "tokenizer.json")
    settings = json.dumps(asdict(encoder_settings(recipe)), indent=2)
    (version / SETTINGS_NAME).write_text(settings + "\n")
    for name in CODE_FILES:
        shutil.copyfile(CODE / name, version / name)
    write_text_warmup(folder)


def fill_ensemble(recipe: Recipe, parts: Parts, repository: Path) -> None:
    """The files of the tokenizer and of the core; the ensemble itself has none."""
    feed = graph_facts(parts.graph).feed
    folder = repository / tokenizer_name(recipe.name)
    version = folder / str(MODEL_VERSION)
    shutil.copyfile(parts.tokenizer, version / "tokenizer.json")
    (version / TOKENIZER_SETTINGS).write_bytes(tokenizer_settings(recipe, feed))
    for name, source in TOKENIZER_CODE.items():
        shutil.copyfile(CODE / source, version / name)
    write_text_warmup(folder)
    core = repository / core_name(recipe.name)
    config, engines = read_config(core / CONFIG_NAME), list(parts.engines.values())
    fill_core(recipe, parts.graph, engines, config, repository)
    write_ids_warmup(parts.tokenizer, feed, recipe.max_tokens, core / "warmup")


def write_text_warmup(folder: Path) -> None:
    """The text that Triton warms a model up with."""
    (folder / "warmup").mkdir()
    (folder / "warmup" / WARMUP_FILE).write_bytes(warmup_bytes())


def bill_of(recipe: Recipe, parts: Parts, proof: Proof, repository: Path) -> Bill:
    """What the repository is made of; weights are its graphs and engines."""
    weights = [path for name in (GRAPH, PLAN) for path in sorted(repository.rglob(name))]
    return Bill(
        name=recipe.name,
        version=MODEL_VERSION,
        weights={path.relative_to(repository).as_posix(): sha256_file(path) for path in weights},
        source=proof.source,
        data_sets=parts.data_sets,
        packages=parts.packages,
    )


def describe(recipe: Recipe, proof: Proof, files: dict[str, str]) -> Manifest:
    """The manifest of these files."""
    return Manifest(
        name=recipe.name,
        version=MODEL_VERSION,
        task=recipe.task,
        target=recipe.target,
        vectors=recipe.serving.vectors,
        max_tokens=recipe.max_tokens,
        max_batch_size=recipe.serving.max_batch_size,
        digest=combined_digest(files),
        files=files,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **dict(proof),
    )


@dataclass(frozen=True)
class Published:
    """A repository where servers look for it; without a digest when nothing was packaged."""

    repository: Path
    digest: str | None
    changed: bool


def publish(assembled: Path, repository: Path) -> Published:
    """Replace `repository` by a copy of the assembled one unless it already is that one.

    A repository that is there and the same is not touched, so that a running server keeps its files.
    """
    digest = read_manifest(assembled).digest
    incoming = repository.with_name(f".{repository.name}.incoming")
    outgoing = repository.with_name(f".{repository.name}.outgoing")
    tidy_up(repository, incoming, outgoing)
    if same_repository(assembled, repository):
        sign_repository(repository)
        return Published(repository, digest, changed=False)
    try:
        shutil.copytree(assembled, incoming, ignore=shutil.ignore_patterns(RECORD_NAME))
        sign_repository(incoming)
        sync_tree(incoming)
        if repository.exists():
            repository.rename(outgoing)
        incoming.rename(repository)
    finally:
        tidy_up(repository, incoming, outgoing)
    return Published(repository, digest, changed=True)


def tidy_up(repository: Path, incoming: Path, outgoing: Path) -> None:
    """Remove what a publication left behind; one that was stopped gives the old repository back."""
    if outgoing.exists() and not repository.exists():
        outgoing.rename(repository)
    for path in (incoming, outgoing):
        shutil.rmtree(path, ignore_errors=True)


def same_repository(assembled: Path, repository: Path) -> bool:
    """Whether both hold the same manifest and the same files."""
    published = repository / MANIFEST_NAME
    if not published.is_file():
        return False
    if published.read_bytes() != (assembled / MANIFEST_NAME).read_bytes():
        return False
    manifest = Manifest.model_validate_json(published.read_bytes())
    return digest_files(repository) == manifest.files
