"""A packaged repository with other serving parameters: what is tried, and later published."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from models.files import sha256_file
from models.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    Manifest,
    Tuning,
    combined_digest,
    digest_files,
    read_manifest,
    write_manifest,
)
from models.triton.text_encoder.encoder import SETTINGS_NAME
from optimize.errors import TuneError
from optimize.package import CODE, CODE_FILES
from optimize.proof import Proof
from optimize.recipe import Recipe, encoder_settings
from optimize.triton_config import CONFIG_NAME, text_encoder_config, write_config
from optimize.tune.space import NAMES, recipe_with


def check_repository(recipe: Recipe, repository: Path) -> Manifest:
    """The manifest of a repository that this recipe may be tuned on.

    Raises ManifestError when nothing is packaged there, TuneError when it is something else.
    """
    if recipe.target != "cpu":
        raise TuneError(
            "tuning runs the embedded Triton, which has no ONNX Runtime or TensorRT backend: set target: "
            "cpu, or tune on the GPU node with Triton's own container"
        )
    manifest = read_manifest(repository)
    found = settings_of(repository, manifest)
    wanted = asdict(encoder_settings(recipe))
    fixed = {name for name in found.keys() | wanted.keys() if name not in NAMES}
    different = sorted(
        name for name in fixed if json.dumps(found.get(name)) != json.dumps(wanted.get(name))
    )
    same_model = (manifest.name, manifest.task, manifest.target) == (
        recipe.name,
        recipe.task,
        recipe.target,
    )
    if different or not same_model or not serves_current_code(repository, manifest):
        reason = "other code serves it"
        if not same_model:
            reason = f"it holds {manifest.name} for {manifest.task}"
        elif different:
            reason = f"its {', '.join(different)} differ"
        raise TuneError(
            f"{repository} was not packaged from this recipe ({reason}): run `make optimize` first"
        )
    return manifest


def serves_current_code(repository: Path, manifest: Manifest) -> bool:
    """Whether the packaged code is that of this checkout, which later packagings would bring."""
    version = repository / manifest.name / str(manifest.version)
    return all(
        (version / name).is_file() and sha256_file(version / name) == sha256_file(CODE / name)
        for name in CODE_FILES
    )


def settings_of(repository: Path, manifest: Manifest) -> dict[str, object]:
    """What the packaged encoder.json says."""
    path = repository / manifest.name / str(manifest.version) / SETTINGS_NAME
    found: dict[str, object] = json.loads(path.read_text())
    return found


def write_edited(
    recipe: Recipe, repository: Path, parameters: Mapping[str, int], destination: Path
) -> None:
    """A copy of a packaged repository that differs in these parameters, without manifest and signature.

    Large files are hard links. What is written comes from the functions that packaging uses, so that the
    copy is what packaging the recipe with these parameters would give.
    """
    manifest = read_manifest(repository)
    edited = recipe_with(recipe, parameters)
    model = destination / manifest.name
    shutil.copytree(repository, destination, copy_function=link_or_copy, ignore=left_out)
    config, settings = model / CONFIG_NAME, model / str(manifest.version) / SETTINGS_NAME
    for path in (config, settings):
        path.unlink()  # a hard link: writing into it would change the original
    write_config(config, text_encoder_config(edited, proof_of(manifest)))
    settings.write_text(json.dumps(asdict(encoder_settings(edited)), indent=2) + "\n")


def write_tuned(
    recipe: Recipe,
    repository: Path,
    parameters: Mapping[str, int],
    tuning: Tuning,
    destination: Path,
) -> None:
    """The same with a manifest that declares the new files and says why they are as they are."""
    write_edited(recipe, repository, parameters, destination)
    manifest = read_manifest(repository)
    files = digest_files(destination)
    changed = {
        "files": files,
        "digest": combined_digest(files),
        "max_batch_size": parameters["max_batch_size"],
        "tuning": tuning,
    }
    write_manifest(destination, manifest.model_copy(update=changed))


def proof_of(manifest: Manifest) -> Proof:
    """What the manifest says beside the files."""
    known = {name: getattr(manifest, name) for name in Proof.model_fields}
    return Proof.model_validate(known)


def link_or_copy(source: str, destination: str) -> str:
    """A hard link, or a copy where the two places share no file system."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
    return destination


def left_out(_: str, names: list[str]) -> set[str]:
    """What belongs to the original alone."""
    return {MANIFEST_NAME, SIGNATURE_NAME, "__pycache__", "step.json"} & set(names)
