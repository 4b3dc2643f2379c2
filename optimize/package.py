"""The chosen variant as a Triton repository with its manifest, published whole."""

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import models.triton.text_encoder as text_encoder
from models.manifest import (
    MANIFEST_NAME,
    Evidence,
    Manifest,
    Source,
    combined_digest,
    digest_files,
    read_manifest,
    sha256_file,
    write_manifest,
)
from models.triton.text_encoder.encoder import SETTINGS_NAME
from optimize.recipe import Recipe, encoder_settings
from optimize.steps import RECORD_NAME, sync_tree
from optimize.triton_config import (
    CONFIG_NAME,
    WARMUP_FILE,
    text_encoder_config,
    warmup_bytes,
    write_config,
)

MODEL_VERSION = 1
CODE = Path(text_encoder.__path__[0])
CODE_FILES = ("model.py", "encoder.py", "batches.py")


@dataclass(frozen=True)
class Proof:
    """What the manifest says beside the files: where they come from and what was measured."""

    variant: str
    embedding_dim: int
    source: Source
    evidence: Evidence
    baseline: Evidence
    gate: list[str]
    data_provenance: list[str]
    recipe_sha256: str
    hardware: dict[str, str]
    tool_versions: dict[str, str]


def served_code_digest() -> str:
    """The digest of the code that is packaged, and measured, beside the graph."""
    return combined_digest({name: sha256_file(CODE / name) for name in CODE_FILES})


def write_version(recipe: Recipe, onnx: Path, tokenizer: Path, version: Path) -> None:
    """Fill a model's version directory with everything that one process needs to encode."""
    version.mkdir(parents=True)
    shutil.copyfile(onnx, version / "model.onnx")
    shutil.copyfile(tokenizer, version / "tokenizer.json")
    settings = json.dumps(asdict(encoder_settings(recipe)), indent=2)
    (version / SETTINGS_NAME).write_text(settings + "\n")
    for name in CODE_FILES:
        shutil.copyfile(CODE / name, version / name)


def assemble(recipe: Recipe, onnx: Path, tokenizer: Path, proof: Proof, repository: Path) -> None:
    """The package step: a complete repository in an empty directory."""
    model = repository / recipe.name
    write_version(recipe, onnx, tokenizer, model / str(MODEL_VERSION))
    (model / "warmup").mkdir()
    (model / "warmup" / WARMUP_FILE).write_bytes(warmup_bytes())
    write_config(model / CONFIG_NAME, text_encoder_config(recipe, proof.embedding_dim))
    files = digest_files(repository)
    manifest = Manifest(
        name=recipe.name,
        version=MODEL_VERSION,
        task=recipe.task,
        target=recipe.target,
        max_tokens=recipe.max_tokens,
        max_batch_size=recipe.serving.max_batch_size,
        digest=combined_digest(files),
        files=files,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **vars(proof),
    )
    write_manifest(repository, manifest)


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
        return Published(repository, digest, changed=False)
    try:
        shutil.copytree(assembled, incoming, ignore=shutil.ignore_patterns(RECORD_NAME))
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
