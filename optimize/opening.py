"""Open what a recipe trains, measures and exports, whatever its task: the source, or a variant of it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.triton.text_encoder.encoder import EncoderSettings, TextEncoder, open_session
from models.triton.text_encoder.tokens import Item, open_tokenizer
from optimize.classifier import open_classifier
from optimize.load import Attention, SourceModel, open_source
from optimize.load_onnx import open_graph
from optimize.quality import Encode
from optimize.recipe import Recipe
from optimize.vectors import as_sent


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


def open_variant(graph: Path, tokenizer: Path, settings: EncoderSettings) -> Encode:
    """A variant as it is served."""
    encoder = TextEncoder(
        open_session(graph, settings), open_tokenizer(tokenizer, settings.max_tokens), settings
    )
    return partial(answers_as_sent, encoder)


def answers_as_sent(encoder: TextEncoder, items: Sequence[Item]) -> npt.NDArray[np.float32]:
    """N items -> [N, dim]: what a client reads of the answers, in the number format they are sent in."""
    return as_sent(encoder.encode(items).outputs, encoder.settings.vectors)
