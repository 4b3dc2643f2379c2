"""Source model -> one ONNX graph, pooling and normalisation inside, proved against its source."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager

from models.manifest import EMBEDDING_OUTPUT, OUTPUTS
from models.triton.text_encoder.encoder import EncoderSettings, TextEncoder, open_session
from models.triton.text_encoder.tokens import Item
from optimize.errors import ExportError
from optimize.load import SourceModel
from optimize.opening import open_model
from optimize.recipe import Recipe, encoder_settings


def export_onnx(
    source: SourceModel, opset: int, path: Path, output: str = EMBEDDING_OUTPUT
) -> None:
    """Write the graph to `path`. Inputs [batch, sequence] int64, the output [batch, dim]."""
    module = source.module
    transformer = module.encoder
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            "onnx", model=transformer, task="feature-extraction", library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise ExportError(f"optimum cannot export this architecture: {error}") from error
    with warnings.catch_warnings():
        # transformers' mask code makes a tensor of the constant 1.0 while it is traced.
        warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
        export(module, complete_config(constructor(module.config), output), path, opset=opset)
    onnx.checker.check_model(str(path), full_check=True)
    # The exporter leaves the width of normalised vectors symbolic; whoever reads the graph needs it.
    onnx.shape_inference.infer_shapes_path(str(path), str(path))


def complete_config(config: Any, output: str) -> Any:
    """optimum's export configuration of the transformer, with the one final output instead of its own."""

    class CompleteConfig(type(config)):  # type: ignore[misc]  # optimum finds the outputs by property
        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {output: {0: "batch_size"}}

    return CompleteConfig(config._config, task="feature-extraction")


def check_parity(
    source: SourceModel, path: Path, settings: EncoderSettings, items: Sequence[Item], limit: float
) -> dict[str, float]:
    """The largest absolute error at batch 1, at batch 64 and at the longest sequence.

    Raises ExportError when one is above `limit`.
    """
    cases = {
        "batch 1": items[:1],
        "batch 64": items[:64],
        "longest sequence": [longest_of(items, settings.max_tokens)],
    }
    exported = TextEncoder(open_session(path, settings), source.tokenizer, settings)
    errors = {
        name: float(np.abs(exported.encode(some).outputs - source.encode(some)).max())
        for name, some in cases.items()
    }
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= limit:
        raise ExportError(
            f"the exported graph is off by {errors[worst]:.2g} at {worst}, the recipe allows {limit:g}: "
            "raise export.max_abs_error if that is meant, else try another opset"
        )
    return errors


def longest_of(items: Sequence[Item], max_tokens: int) -> Item:
    """All the texts as one, words enough to be truncated; beside the first query when they are pairs."""
    texts = [item if isinstance(item, str) else item[1] for item in items]
    longest = " ".join(texts)[: max_tokens * 12]
    return longest if isinstance(items[0], str) else (items[0][0], longest)


def write_export(recipe: Recipe, source: Path, items: Sequence[Item], destination: Path) -> None:
    """The export step: model.onnx and parity.json; `items` are what parity is proved on."""
    path = destination / "model.onnx"
    # Traced, PyTorch's fused attention computes its constant scale again in every layer of every run.
    traced = open_model(source, recipe, attention="eager")
    export_onnx(traced, recipe.export.opset, path, OUTPUTS[recipe.task])
    model = open_model(source, recipe)
    limit = recipe.export.max_abs_error
    parity = check_parity(model, path, encoder_settings(recipe), items, limit)
    (destination / "parity.json").write_text(json.dumps(parity, indent=2) + "\n")
