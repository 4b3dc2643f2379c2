"""`python -m optimize lint`: check a Triton repository without starting a server.

Any repository will do, ours or not: backends that are unknown here are checked for their files only.
"""

from pathlib import Path

from models.manifest import ManifestError, read_manifest
from optimize.ensemble import buckets_of
from optimize.errors import PackageError
from optimize.lint.engines import engine_findings
from optimize.lint.ensembles import ensemble_findings
from optimize.lint.files import file_findings
from optimize.lint.findings import Finding, read_models
from optimize.lint.graphs import graph_findings
from optimize.lint.signatures import signature_findings


def lint(
    repository: Path, trusted_key: Path | None = None, compute_capability: str | None = None
) -> list[Finding]:
    """Everything that is wrong, errors first. `trusted_key` None skips the signature of foreign
    repositories; ours are always checked against their manifest. Raises PackageError when there is none.
    """
    models = read_models(repository)
    if not models:
        raise PackageError(
            f"no model at {repository}: name the folder that holds <model>/config.pbtxt"
        )
    lengths = served_lengths(repository)
    found = [
        *(problem for model in models for problem in model.problems),
        *(f for model in models for f in file_findings(model)),
        *(f for model in models for f in graph_findings(model)),
        *(f for model in models for f in engine_findings(model, lengths, compute_capability)),
        *ensemble_findings(models),
        *signature_findings(repository, trusted_key),
    ]
    return sorted(found, key=lambda finding: (finding.severity != "error", finding.where))


def served_lengths(repository: Path) -> list[int]:
    """What texts are padded to in a GPU repository of ours; empty where no manifest tells."""
    try:
        return buckets_of(read_manifest(repository).max_tokens)
    except ManifestError:
        return []
