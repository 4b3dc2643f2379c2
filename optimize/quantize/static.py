"""FP32 graph -> static INT8 graph (QDQ): activations get their ranges from calibration texts.

A text's vector then no longer depends on the texts beside it.
"""

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    TensorData,
    TensorsData,
    quantize_static,
    save_tensors_data,
)
from onnxruntime.transformers.onnx_model import OnnxModel

from models.triton.text_encoder.encoder import EncoderSettings, TextEncoder, open_session
from models.triton.text_encoder.tokens import Item, open_tokenizer
from optimize.errors import QuantizeError
from optimize.quantize.calibration import Range, calibration_feeds, ranges_of
from optimize.quantize.dynamic import Isa, weight_type
from optimize.quantize.exclusion import Spared, exclude_until_held
from optimize.quantize.graph import FLOAT, notes_of, quiet, refuse_unusable, weight_products
from optimize.sections import Calibration, Quantize

SCORED_TEXTS = 48  # that trials are compared on
EXCLUDED = "excluded.json"  # what exclusion.py found

Outputs = npt.NDArray[np.float32]


def write_static_int8(
    fp32: Path,
    tokenizer: Path,
    texts: Sequence[Item],
    isa: Isa,
    section: Quantize,
    settings: EncoderSettings,
    spared: Spared,
    destination: Path,
) -> None:
    """The step: model.onnx, excluded.json and notes.json. The operators that cost most quality stay in
    FP32: at least those `spared`, and so many that the outputs on calibration texts are as near to the
    FP32 graph's as the recipe asks.

    Raises QuantizeError when there are too few calibration texts or the graph cannot be used.
    """
    refuse_unusable(fp32)
    some = enough_texts(texts, section.calibration)
    model = named_and_typed(onnx.load(fp32))
    products = weight_products(model, static=True)
    feeds = calibration_feeds(fp32, tokenizer, some, settings)
    ranges = ranges_of(model, sorted(set(products.values())), feeds, section.calibration)
    whole = quantize_graph(model, ranges, isa, section.embedding_table)
    scored = some[:SCORED_TEXTS]
    expected = outputs_of(fp32, tokenizer, scored, settings)
    path = destination / "model.onnx"

    def score(excluded: Sequence[str]) -> float:
        onnx.save(leave_out(whole, model, excluded), path)
        return likeness(outputs_of(path, tokenizer, scored, settings), expected)

    at_most = min(section.max_excluded, len(products))
    found = exclude_until_held(list(products), score, section.min_cosine, at_most, spared)
    onnx.save(leave_out(whole, model, found.operators), path)
    (destination / EXCLUDED).write_text(json.dumps(asdict(found), indent=2) + "\n")
    made = [describe_calibration(section.calibration, len(some)), found.words]
    notes_of(destination, *made, *describe_retry(spared))


def enough_texts(texts: Sequence[Item], calibration: Calibration) -> list[Item]:
    """The texts that ranges are taken from. Raises QuantizeError when there are too few."""
    some = list(texts[: calibration.texts])
    if len(some) < calibration.min_texts:
        raise QuantizeError(
            f"{len(some)} calibration texts: qdq variants need {calibration.min_texts}; add "
            "texts to the data's calibration, or drop these variants"
        )
    return some


def named_and_typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a name for every node and a type for what products take: the quantizer goes by both.

    Fused graphs leave types in between unsaid, and what has no type would silently stay as it is.
    """
    for position, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{position}"
    typed = {info.name for info in [*model.graph.value_info, *model.graph.input]}
    untyped = sorted(set(weight_products(model, static=True).values()) - typed)
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in untyped
    )
    return model


def quantize_graph(
    model: onnx.ModelProto, ranges: Mapping[str, Range], isa: Isa, embedding_table: bool
) -> onnx.ModelProto:
    """The graph with all its products in INT8; its embedding tables where asked.

    ONNX Runtime runs them as integer products with FP32 results. Everything between them (attention
    scores, softmax, GELU, normalisation and the residual sums) keeps its precision: quantizing it
    costs more time than it saves.
    """
    nodes = [
        *weight_products(model, static=True),
        *(table_lookups(model) if embedding_table else []),
    ]
    with tempfile.TemporaryDirectory() as folder, quiet():  # ONNX Runtime's tool works on files
        cache, path = Path(folder) / "ranges.json", Path(folder) / "model.onnx"
        save_tensors_data(tensors_data(ranges), cache)
        quantize_static(
            copy.deepcopy(model),  # it works in place
            path,
            calibration_cache_path=cache,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gather"],
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,  # ONNX Runtime has no integer products of signed ones
            weight_type=weight_type(isa),
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gather"]},
        )
        return keep_residuals(onnx.load(path))


def tensors_data(ranges: Mapping[str, Range]) -> TensorsData:
    """The ranges as ONNX Runtime's own record of them."""
    return TensorsData(
        CalibrationMethod.MinMax,
        {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges.items()
        },
    )


def table_lookups(model: onnx.ModelProto) -> list[str]:
    """The nodes that take rows of FP32 embedding tables."""
    tables = {tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT}
    return [n.name for n in model.graph.node if n.op_type == "Gather" and n.input[0] in tables]


def keep_residuals(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let only products take rounded activations.

    The quantizer gives every consumer of an activation its rounded form, also the sums that carry it
    past the next layers: their error would add up, and rounding back takes time.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    exact: dict[str, str] = {}
    for product in (node for node in model.graph.node if node.op_type == "MatMul"):
        rounded = made_by.get(product.input[0])
        if rounded is not None and rounded.op_type == "DequantizeLinear":
            exact[product.input[0]] = made_by[rounded.input[0]].input[0]
    for node in model.graph.node:
        if node.op_type != "MatMul":
            for position, name in enumerate(node.input):
                node.input[position] = exact.get(name, name)
    return model


def leave_out(
    quantized: onnx.ModelProto, fp32: onnx.ModelProto, excluded: Sequence[str]
) -> onnx.ModelProto:
    """The quantized graph with these products as they are in the FP32 graph."""
    if not excluded:
        return quantized
    model = copy.deepcopy(quantized)
    original = {node.name: node for node in fp32.graph.node}
    for node in (node for node in model.graph.node if node.name in excluded):
        node.input[:] = original[node.name].input
    held = {tensor.name for tensor in model.graph.initializer}
    needed = {original[name].input[1] for name in excluded} - held
    model.graph.initializer.extend(t for t in fp32.graph.initializer if t.name in needed)
    OnnxModel(model).prune_graph()
    return model


def outputs_of(
    graph: Path, tokenizer: Path, texts: Sequence[Item], settings: EncoderSettings
) -> Outputs:
    """What a graph gives for the texts [N, dim]."""
    encoder = TextEncoder(
        open_session(graph, settings), open_tokenizer(tokenizer, settings.max_tokens), settings
    )
    return encoder.encode(texts).outputs


def likeness(found: Outputs, expected: Outputs) -> float:
    """The mean cosine of rows [N, dim]; of single numbers, the correlation over rows."""
    if expected.shape[1] == 1:
        return float(np.corrcoef(found[:, 0], expected[:, 0])[0, 1])
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / lengths).mean())


def describe_calibration(calibration: Calibration, texts: int) -> str:
    """How the ranges were found, in words."""
    method = calibration.method
    detail = f" ({calibration.percentile:g} %)" if method == "percentile" else ""
    return f"static INT8: activation ranges by {method}{detail} from {texts} calibration texts"


def describe_retry(spared: Spared) -> list[str]:
    """Why more products than the calibration texts asked for stay in FP32, where that is so."""
    if spared.count == 0:
        return []
    return [
        f"at least {spared.count} of them because with fewer the gate refused its quality: how many was "
        "chosen on the evaluated data, which flatters it a little"
    ]
