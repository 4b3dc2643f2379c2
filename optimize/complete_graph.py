"""Complete a raw ONNX graph for its task, so that it is served whole:

    embed      [N, T, dim] -> pooled, or [N, dim] -> unit vectors
    classify   [N, classes] -> probabilities
    rerank     [N, 1] or [N] -> scores [N, 1]

The added operators read alike in every opset: where reduction axes stand has changed between them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.manifest import OUTPUTS, Task
from optimize.errors import SourceError
from optimize.modules import Pooling

USUAL_OUTPUTS: Mapping[Task, tuple[str, ...]] = {
    "embed": ("sentence_embedding", "embedding", "last_hidden_state", "token_embeddings"),
    "classify": ("probabilities", "logits"),
    "rerank": ("score", "logits"),
}

PREFIX = "farshore_"  # of every tensor that is added
FLOATS = "farshore_floats"

Constants = dict[str, Any]  # of whole numbers
Outputs = Mapping[str, npt.NDArray[Any]]  # what each output was in a run on two texts


def complete(model: onnx.ModelProto, task: Task, seen: Outputs, pooling: Pooling) -> None:
    """Give the graph, in place, the task's one output. Raises SourceError when it has none to use."""
    chosen = pick_output(seen, task)
    values = seen[chosen]
    refuse_other_shape(chosen, values, task)
    name = OUTPUTS[task]
    own = make_room(model, name).get(chosen, chosen)
    to_float = helper.make_node("Cast", [own], [FLOATS], to=TensorProto.FLOAT)
    nodes, constants = completing_nodes(task, values, name, pooling)
    model.graph.node.extend([to_float, *nodes])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, dtype=np.int64), key)
        for key, value in constants.items()
    )
    if any("attention_mask" in node.input for node in nodes):
        feed_mask(model)
    width = 1 if task == "rerank" else values.shape[-1]
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", width])
    )


def completing_nodes(
    task: Task, values: npt.NDArray[Any], name: str, pooling: Pooling
) -> tuple[list[onnx.NodeProto], Constants]:
    """What lies between the graph's own output and the task's, and the constants that it needs."""
    make = helper.make_node
    match task:
        case "embed" if values.ndim == 3:
            nodes, constants = pooling_nodes(FLOATS, "farshore_pooled", pooling)
            return [*nodes, unit("farshore_pooled", name)], constants
        case "embed":
            return [unit(FLOATS, name)], {}
        case "classify" if are_probabilities(values):
            return [make("Identity", [FLOATS], [name])], {}
        case "classify":
            return [make("Softmax", [FLOATS], [name], axis=1)], {}
        case "rerank":
            return [make("Reshape", [FLOATS, "farshore_column"], [name])], {
                "farshore_column": [-1, 1]
            }


def pick_output(seen: Outputs, task: Task) -> str:
    """The output to serve: the only one, or by its usual name. Raises SourceError."""
    usual = USUAL_OUTPUTS[task]
    found = list(seen) if len(seen) == 1 else [name for name in usual if name in seen]
    if not found:
        raise SourceError(
            f"the graph has the outputs {', '.join(seen)}: none is called {' or '.join(usual)}; export it "
            "with one output"
        )
    return found[0]


def refuse_other_shape(name: str, values: npt.NDArray[Any], task: Task) -> None:
    """Raise SourceError when an output is nothing that the task can use."""
    if values.dtype.kind != "f":
        raise SourceError(
            f"the output {name} holds {values.dtype}, not numbers of a model: export the graph with its "
            "logits or vectors as output"
        )
    if values.ndim not in {"embed": (2, 3), "classify": (2,), "rerank": (1, 2)}[task]:
        raise SourceError(
            f"the output {name} has {values.ndim} dimensions, which is nothing that {task} can use: "
            "export the graph with [batch, dim] or [batch, tokens, dim]"
        )
    width = 1 if values.ndim == 1 else values.shape[-1]
    if task == "rerank" and width != 1:
        raise SourceError(
            f"a reranker gives one score, this graph gives {width}: use task: classify"
        )
    if task == "classify" and width == 1:
        raise SourceError(f"{name} is one number a text, not classes: use task: rerank")


def are_probabilities(values: npt.NDArray[Any]) -> bool:
    """Whether the rows [N, classes] are probabilities already: a second softmax would flatten them."""
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3))


def pooling_nodes(
    hidden: str, pooled: str, pooling: Pooling
) -> tuple[list[onnx.NodeProto], Constants]:
    """[N, T, dim] -> [N, dim]: the first token, or the sum where the mask is 1, and their constants.

    Of the sum only the direction counts: unit vectors follow, so nothing divides it.
    """
    make = helper.make_node
    if pooling == "cls":
        return [make("Gather", [hidden, "farshore_first"], [pooled], axis=1)], {"farshore_first": 0}
    nodes = [
        make("Cast", ["attention_mask"], ["farshore_mask"], to=TensorProto.FLOAT),
        make("Reshape", ["farshore_mask", "farshore_row"], ["farshore_mask_row"]),  # [N, 1, T]
        make("MatMul", ["farshore_mask_row", hidden], ["farshore_sum"]),  # [N, 1, dim]
        make("Reshape", ["farshore_sum", "farshore_flat"], [pooled]),
    ]
    return nodes, {"farshore_row": [0, 1, -1], "farshore_flat": [0, -1]}


def unit(vectors: str, name: str) -> onnx.NodeProto:
    """Unit vectors."""
    return helper.make_node("LpNormalization", [vectors], [name], axis=1, p=2)


def feed_mask(model: onnx.ModelProto) -> None:
    """Make the attention mask an input where the graph did without one: pooling needs it."""
    if "attention_mask" not in {node.name for node in model.graph.input}:
        shape = ["batch_size", "sequence_length"]
        model.graph.input.append(
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, shape)
        )


def make_room(model: onnx.ModelProto, output: str) -> dict[str, str]:
    """Rename, in place, what has a name that is needed now: the graph may be one of ours, brought back."""
    graph = model.graph
    names = {tensor.name for tensor in graph.initializer}
    names |= {name for node in graph.node for name in node.output}
    renamed = {name: f"{name}_given" for name in names if name.startswith(PREFIX)}
    if output in names:
        renamed[output] = f"{PREFIX}{output}_given"
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        for used in (node.input, node.output):
            used[:] = [renamed.get(name, name) for name in used]
    return renamed
