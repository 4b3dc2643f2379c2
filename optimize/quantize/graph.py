"""What all quantizers share: reading a graph, refusing one that cannot be used, noting what was done."""

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime as ort

from optimize.errors import QuantizeError

FLOAT = onnx.TensorProto.FLOAT
MAX_BYTES = 2 * 10**9  # of a graph in one file; larger ones keep their weights beside it
NOTES = "notes.json"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ONNX Runtime's tools warn of each weight they replace, print what they collect and advise a
    pre-processing that leaves files behind.
    """
    ort.set_default_logger_severity(3)
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        ort.set_default_logger_severity(2)


def refuse_unusable(graph: Path) -> None:
    """Raise QuantizeError when the graph is too large, damaged or has operators that nobody knows."""
    if graph.stat().st_size > MAX_BYTES or list(graph.parent.glob("*.data")):
        raise QuantizeError(
            f"{graph.name} keeps its weights in files of their own or is over 2 GB: quantize a smaller "
            "model, or a student of it"
        )
    try:
        ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each cause
        raise QuantizeError(
            f"ONNX Runtime {ort.__version__} cannot run {graph.name} ({error}): export it with another "
            "opset, or without the operators named here"
        ) from error


def weight_products(model: onnx.ModelProto, static: bool = False) -> dict[str, str]:
    """The matrix products with FP32 weights, in the graph's order: each node's name, and what it is of.

    Raises QuantizeError when there is none, or when `static` quantization has no form of one. Gemm is
    not among them: in these graphs it is the small head of a classifier, where INT8 gains nothing and
    errors go straight into the answer.
    """
    weights = {t.name for t in model.graph.initializer if t.data_type == FLOAT}
    found = [
        node
        for node in model.graph.node
        if node.op_type in ("MatMul", "Attention") and node.input[1] in weights
    ]
    if not found:
        raise QuantizeError(
            "this graph has no matrix products with FP32 weights, it may be quantized already: "
            "drop its int8 and qdq variants, or bring the FP32 graph"
        )
    if static and any(node.op_type == "Attention" for node in found):
        raise QuantizeError(
            "attention fused into one operator cannot be quantized by calibration: use qdq without "
            "-fused, or int8-fused"
        )
    return {node.name: node.input[0] for node in found}


def notes_of(destination: Path, *sentences: str) -> None:
    """What was done, for the report, with the runtime it was done for."""
    model = onnx.load(destination / "model.onnx", load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    made = f"made for ONNX Runtime {ort.__version__}, opset {opsets.get('ai.onnx')}"
    (destination / NOTES).write_text(json.dumps([*sentences, made], indent=2) + "\n")
