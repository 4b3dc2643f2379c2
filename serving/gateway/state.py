"""What every request of one gateway shares."""

from dataclasses import dataclass

from models.manifest import Manifest
from serving.gateway.index_answer import IndexService
from serving.gateway.metrics import Metrics
from serving.gateway.model_client import ModelClient
from serving.gateway.settings import Settings
from serving.gateway.validation import Rules


@dataclass(frozen=True)
class Gateway:
    """The served model, how to reach it, and what is measured and refused."""

    manifest: Manifest
    settings: Settings
    model: ModelClient
    metrics: Metrics
    rules: Rules
    index: IndexService | None = None


def rules_of(manifest: Manifest, settings: Settings) -> Rules:
    """The model's own limits and the operator's, side by side."""
    return Rules(
        model=manifest.name,
        output_dim=manifest.output_dim,
        max_tokens=manifest.max_tokens,
        max_texts=settings.max_texts,
        max_text_bytes=settings.max_text_bytes,
    )
