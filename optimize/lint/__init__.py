"""`python -m optimize lint`: check a Triton repository without starting a server.

Any repository will do, ours or not: backends that are unknown here are checked for their files only.
"""

from pathlib import Path

from optimize.errors import PackageError
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
    found = [
        *(problem for model in models for problem in model.problems),
        *(f for model in models for f in file_findings(model, compute_capability)),
        *(f for model in models for f in graph_findings(model)),
        *ensemble_findings(models),
        *signature_findings(repository, trusted_key),
    ]
    return sorted(found, key=lambda finding: (finding.severity != "error", finding.where))
