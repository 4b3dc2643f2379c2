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
from tritonclient.grpc import model_config_pb2 as pb

from optimize.lint.findings import Finding, Model
from optimize.load_onnx import embedding_rows
from optimize.triton_config import CONFIG_NAME

TYPES = {
    onnx.TensorProto.FLOAT: pb.TYPE_FP32,
    onnx.TensorProto.FLOAT16: pb.TYPE_FP16,
    onnx.TensorProto.INT64: pb.TYPE_INT64,
    onnx.TensorProto.INT32: pb.TYPE_INT32,
    onnx.TensorProto.INT8: pb.TYPE_INT8,
    onnx.TensorProto.UINT8: pb.TYPE_UINT8,
    onnx.TensorProto.BOOL: pb.TYPE_BOOL,
    onnx.TensorProto.STRING: pb.TYPE_STRING,
}


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
            yield from check_interface(model, file, graph)


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


def check_interface(model: Model, file: str, graph: onnx.ModelProto) -> Iterator[Finding]:
    """The tensors of the configuration are those of the graph, with the batch dimension left out."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    inputs = {node.name: node for node in graph.graph.input if node.name not in weights}
    outputs = {node.name: node for node in graph.graph.output}
    for kind, declared, found in (
        ("input", model.config.input, inputs),
        ("output", model.config.output, outputs),
    ):
        for tensor in declared:
            if tensor.name not in found:
                yield model.error(
                    CONFIG_NAME,
                    f"the {kind} {tensor.name} is not in {file}",
                    f"name one of {', '.join(found)}",
                )
                continue
            yield from check_tensor(model, tensor, found[tensor.name])
    for name in sorted(inputs.keys() - {tensor.name for tensor in model.config.input}):
        yield model.error(CONFIG_NAME, f"the graph's input {name} is not declared", "declare it")


def check_tensor(model: Model, tensor: Any, node: onnx.ValueInfoProto) -> Iterator[Finding]:
    """One tensor's type and dimensions."""
    kind = node.type.tensor_type
    if TYPES.get(kind.elem_type) != tensor.data_type:
        yield model.error(
            CONFIG_NAME,
            f"{tensor.name} is {pb.DataType.Name(tensor.data_type)} and the graph says "
            f"{onnx.TensorProto.DataType.Name(kind.elem_type)}",
            "declare the graph's type",
        )
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    if model.config.max_batch_size > 0:
        if dims and dims[0] != -1:
            yield model.error(
                CONFIG_NAME,
                f"max_batch_size {model.config.max_batch_size}, but {tensor.name} has a fixed first "
                f"dimension of {dims[0]}",
                "export the graph with a dynamic batch dimension, or set max_batch_size 0",
            )
        dims = dims[1:]
    declared = list(tensor.dims)
    agree = len(declared) == len(dims) and all(
        ours in (-1, theirs) or theirs == -1 for ours, theirs in zip(declared, dims, strict=True)
    )
    if not agree:
        yield model.error(
            CONFIG_NAME,
            f"{tensor.name} has dims {declared} and the graph, without the batch, {dims}",
            "declare the graph's dims",
        )
