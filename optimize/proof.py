"""What a manifest says beside its files: where the model comes from and what was measured of it."""

from typing import Literal

from pydantic import Field

from models.manifest import (
    Engine,
    Evidence,
    Record,
    ReferenceProfile,
    Source,
    Tuning,
    VectorFigures,
)


class Proof(Record):
    """The fields of the manifest that packaging takes over as they are; see models/manifest.py."""

    variant: str
    output_dim: int
    labels: list[str] = Field(default_factory=list)
    temperature: float | None = None
    space: str
    encodes: Literal["texts", "queries"] = "texts"
    source: Source
    evidence: Evidence
    baseline: Evidence
    gate: list[str]
    stored_vectors: list[VectorFigures] = Field(default_factory=list)
    profile: ReferenceProfile | None = None
    tuning: Tuning | None = None
    engines: list[Engine] = Field(default_factory=list)
    opset: int | None = None
    data_provenance: list[str]
    recipe_sha256: str
    hardware: dict[str, str]
    tool_versions: dict[str, str]
