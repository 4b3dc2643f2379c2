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

from models.triton.text_encoder.encoder import EncoderSettings, TextEncoder, open_session
from optimize.errors import ExportError
from optimize.load import SourceModel, open_source
from optimize.recipe import Recipe, encoder_settings

OUTPUT = "embedding"


def export_onnx(source: SourceModel, opset: int, path: Path) -> None:
    """Write the graph to `path`. Inputs [batch, sequence] int64, output `embedding` [batch, dim]."""
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
        export(module, pooled_config(constructor(module.config)), path, opset=opset)
    onnx.checker.check_model(str(path), full_check=True)


def pooled_config(config: Any) -> Any:
    """optimum's export configuration of the transformer, with one pooled output instead of its own."""

    class PooledConfig(type(config)):  # type: ignore[misc]  # optimum finds the outputs by property
        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {OUTPUT: {0: "batch_size"}}

    return PooledConfig(config._config, task="feature-extraction")


def check_parity(
    source: SourceModel, path: Path, settings: EncoderSettings, texts: Sequence[str], limit: float
) -> dict[str, float]:
    """The largest absolute error at batch 1, at batch 64 and at the longest sequence.

    Raises ExportError when one is above `limit`.
    """
    longest = " ".join(texts)[: settings.max_tokens * 12]  # words enough to be truncated
    cases = {"batch 1": texts[:1], "batch 64": texts[:64], "longest sequence": [longest]}
    exported = TextEncoder(open_session(path, settings), source.tokenizer, settings)
    errors = {
        name: float(np.abs(exported.encode(list(t)).embeddings - source.encode(list(t))).max())
        for name, t in cases.items()
    }
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= limit:
        raise ExportError(
            f"the exported graph is off by {errors[worst]:.2g} at {worst}, the recipe allows {limit:g}: "
            "raise export.max_abs_error if that is meant, else try another opset"
        )
    return errors


def write_export(recipe: Recipe, source: Path, texts: Sequence[str], destination: Path) -> None:
    """The export step: model.onnx and parity.json."""
    path = destination / "model.onnx"
    # Traced, PyTorch's fused attention computes its constant scale again in every layer of every run.
    traced = open_source(source, recipe.max_tokens, attention="eager")
    export_onnx(traced, recipe.export.opset, path)
    settings = encoder_settings(recipe)
    model = open_source(source, recipe.max_tokens)
    parity = check_parity(model, path, settings, texts, recipe.export.max_abs_error)
    (destination / "parity.json").write_text(json.dumps(parity, indent=2) + "\n")
