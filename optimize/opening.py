"""Open what a recipe trains, measures and exports, whatever its task: the source, fine-tuned or not."""

from pathlib import Path

from optimize.classifier import open_classifier
from optimize.load import Attention, SourceModel, open_source
from optimize.load_onnx import open_graph
from optimize.quality import Encode
from optimize.recipe import Recipe


def open_model(directory: Path, recipe: Recipe, attention: Attention = "sdpa") -> SourceModel:
    """A model directory in PyTorch: as fetched, or as fine-tuning or distillation wrote it."""
    if recipe.task == "classify":
        return open_classifier(directory, recipe.max_tokens, attention)
    return open_source(directory, recipe.max_tokens, recipe.task, attention)


def open_baseline(directory: Path, recipe: Recipe) -> Encode:
    """What variants are compared with: the model in PyTorch, or a raw graph as it was brought."""
    if recipe.has_raw_graph:
        return open_graph(directory, recipe.max_tokens).encode
    return open_model(directory, recipe).encode
