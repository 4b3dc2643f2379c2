"""What the later stages must know of an ONNX graph, read without its weights where those lie apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from tritonclient.grpc import model_config_pb2 as pb

from models.files import sha256_file
from models.triton.text_encoder.tokens import FEED
from optimize.tensors import VARIES, TensorSpec

TYPES = {
    onnx.TensorProto.FLOAT: pb.TYPE_FP32,
    onnx.TensorProto.FLOAT16: pb.TYPE_FP16,
    onnx.TensorProto.BFLOAT16: pb.TYPE_BF16,
    onnx.TensorProto.INT64: pb.TYPE_INT64,
    onnx.TensorProto.INT32: pb.TYPE_INT32,
    onnx.TensorProto.INT8: pb.TYPE_INT8,
    onnx.TensorProto.UINT8: pb.TYPE_UINT8,
    onnx.TensorProto.BOOL: pb.TYPE_BOOL,
    onnx.TensorProto.STRING: pb.TYPE_STRING,
}


@dataclass(frozen=True)
class GraphFacts:
    """`feed` are the BERT inputs it takes, in the tokenizer's order; `fp16` whether its weights are FP16;
    `opset` is that of ONNX's own operators.
    """

    feed: tuple[str, ...]
    fp16: bool
    opset: int
    sha256: str


def graph_facts(path: Path) -> GraphFacts:
    """The facts of a graph on disk."""
    model = onnx.load(path, load_external_data=False)
    names = {node.name for node in model.graph.input}
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    return GraphFacts(
        feed=tuple(name for name in FEED if name in names),
        fp16=onnx.TensorProto.FLOAT16 in kinds,
        opset=opset_of(model),
        sha256=sha256_file(path),
    )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators; 0 where a graph has none of them."""
    own = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(own, default=0)


def interface_of(model: onnx.ModelProto) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The inputs and the outputs of a graph; older exporters list weights among the inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = specs_of(node for node in model.graph.input if node.name not in weights)
    return inputs, specs_of(model.graph.output)


def specs_of(nodes: Iterable[onnx.ValueInfoProto]) -> list[TensorSpec]:
    """Name, type and dims of each."""
    return [
        TensorSpec(
            node.name,
            TYPES.get(node.type.tensor_type.elem_type, pb.TYPE_INVALID),
            tuple(
                dim.dim_value if dim.HasField("dim_value") else VARIES
                for dim in node.type.tensor_type.shape.dim
            ),
        )
        for node in nodes
    ]
