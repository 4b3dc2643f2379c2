"""Whether an ONNX graph is what its configuration and its tokenizer say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from tokenizers import Tokenizer

from optimize.graph_facts import interface_of
from optimize.lint.findings import Finding, Model
from optimize.load_onnx import embedding_rows
from optimize.tensors import interface_problems
from optimize.triton_config import CONFIG_NAME


def graph_findings(model: Model) -> Iterator[Finding]:
    """All checks of one model's graphs; a python-backend model may carry one as well."""
    for version in model.versions:
        path = version / (model.config.default_model_filename or "model.onnx")
        if path.suffix != ".onnx" or not path.is_file():
            continue
        file = f"{version.name}/{path.name}"
        try:
            graph = onnx.load(path)
        except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
            yield model.error(
                file,
                f"cannot be read ({error})",
                "put its external data beside it, or package again",
            )
            continue
        yield from check_weights(model, file, graph)
        yield from check_tokenizer(model, version, graph)
        if model.kind == "onnxruntime":
            inputs, outputs = interface_of(graph)
            for problem in interface_problems(model.config, inputs, outputs, "the graph"):
                yield model.error(CONFIG_NAME, problem.words, problem.fix)


def check_weights(model: Model, file: str, graph: onnx.ModelProto) -> Iterator[Finding]:
    """No weight is NaN or infinite."""
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and np.isnan(values).any():
            yield model.error(
                file, f"the weight {tensor.name} holds NaN", "package another checkpoint"
            )
            return


def check_tokenizer(model: Model, version: Path, graph: onnx.ModelProto) -> Iterator[Finding]:
    """The tokenizer beside the graph knows no id that the graph does not."""
    path, rows = version / "tokenizer.json", embedding_rows(graph)
    if not path.is_file() or rows is None:
        return
    try:
        tokens = Tokenizer.from_buffer(path.read_bytes()).get_vocab_size()
    except ValueError as error:
        yield model.error(
            f"{version.name}/tokenizer.json", f"cannot be read ({error})", "package again"
        )
        return
    if tokens > rows:
        yield model.error(
            f"{version.name}/tokenizer.json",
            f"{tokens} tokens for a graph with {rows} embeddings",
            "take the tokenizer of the same model",
        )
    settings = version / "encoder.json"
    if settings.is_file():
        yield from check_length(model, version, json.loads(settings.read_text()), graph)


def check_length(
    model: Model, version: Path, settings: dict[str, Any], graph: onnx.ModelProto
) -> Iterator[Finding]:
    """Texts are not cut later than the graph has positions."""
    positions = [
        tensor.dims[0]
        for tensor in graph.graph.initializer
        if "position_embeddings" in tensor.name and len(tensor.dims) == 2
    ]
    if positions and settings["max_tokens"] > max(positions):
        yield model.error(
            f"{version.name}/encoder.json",
            f"max_tokens {settings['max_tokens']} and only {max(positions)} positions",
            "lower max_tokens",
        )
