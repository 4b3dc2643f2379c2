"""FP32 graph -> FP16 graph for GPUs; inputs and outputs keep their types."""

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from optimize.quantize.graph import notes_of, refuse_unusable

# Masks add the lowest FP32 number to scores; in FP16 that is infinity, and a row of them not a number.
LOWEST = -1e4


def quantize_half(fp32: Path, destination: Path) -> None:
    """Write `destination`/model.onnx with FP16 weights and arithmetic."""
    refuse_unusable(fp32)
    model = soften_masks(onnx.load(fp32))
    half = convert_float_to_float16(model, keep_io_types=True)
    onnx.save(half, destination / "model.onnx")
    notes_of(destination, f"FP16, masks at {LOWEST:g}")


def soften_masks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Raise constants below what FP16 holds: they are masks, and LOWEST masks as well."""
    for holder in constants_of(model):
        values = onnx.numpy_helper.to_array(holder)
        if values.dtype == np.float32 and values.size and values.min() < np.finfo(np.float16).min:
            raised = np.maximum(values, np.float32(LOWEST))
            holder.CopyFrom(onnx.numpy_helper.from_array(raised, holder.name))
    return model


def constants_of(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Initializers and the values of Constant nodes."""
    inline = [
        attribute.t
        for node in model.graph.node
        if node.op_type in ("Constant", "ConstantOfShape")
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    return [*model.graph.initializer, *inline]
