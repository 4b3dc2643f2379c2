"""A raw ONNX graph as a source: checked, its output named and completed for the task, its tokenizer beside
it. What it was made with stays unknown, so it can be quantized and fused but neither trained nor exported.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from models.manifest import OUTPUTS, Task
from models.triton.text_encoder.tokens import Item, open_tokenizer, padded_inputs
from optimize.errors import SourceError
from optimize.load_checks import refuse_other_tokenizer

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
BATCH = 32  # the default of sentence-transformers' cross-encoders


@dataclass(frozen=True)
class GraphModel:
    """The graph in plain ONNX Runtime with its default threads: how it runs before anything is done."""

    session: ort.InferenceSession
    tokenizer: Tokenizer

    def encode(self, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """N texts or pairs -> [N, dim], BATCH at a time as they come, padded to their longest."""
        encodings = self.tokenizer.encode_batch_fast(list(items))
        wanted = {node.name for node in self.session.get_inputs()}
        outputs = []
        for start in range(0, len(encodings), BATCH):
            feed = padded_inputs(encodings[start : start + BATCH])
            (output,) = self.session.run(None, {n: v for n, v in feed.items() if n in wanted})
            outputs.append(np.asarray(output, dtype=np.float32))
        return np.concatenate(outputs)


def open_graph(directory: Path, max_tokens: int) -> GraphModel:
    """The graph of a source step."""
    session = ort.InferenceSession(
        str(directory / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return GraphModel(session, open_tokenizer(directory / "tokenizer.json", max_tokens))


def adopt_graph(graph: Path, tokenizer: Path, task: Task, destination: Path) -> None:
    """Write model.onnx and tokenizer.json to `destination`. Raises SourceError on what cannot be served."""
    for path in (graph, tokenizer):
        if not path.is_file():
            raise SourceError(f"no file at {path}: correct the recipe's source")
    model = read_graph(graph)
    refuse_damaged(model)
    session = run_graph(graph)
    unknown = [node.name for node in session.get_inputs() if node.name not in INPUTS]
    if unknown:
        raise SourceError(
            f"{graph.name} has the inputs {', '.join(unknown)}: only {', '.join(INPUTS)} can be fed"
        )
    if (rows := embedding_rows(model)) is not None:
        refuse_other_tokenizer(Tokenizer.from_file(str(tokenizer)), rows)
    onnx.save(complete(model, task), destination / "model.onnx")
    shutil.copyfile(tokenizer, destination / "tokenizer.json")


def read_graph(path: Path) -> onnx.ModelProto:
    """Parse a graph with its external data."""
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf and onnx raise many kinds for one damaged file
        raise SourceError(
            f"{path.name} is not an ONNX graph that can be read ({type(error).__name__}): fetch it again, "
            "with the files of its external data beside it"
        ) from error


def run_graph(path: Path) -> ort.InferenceSession:
    """Open the graph, which refuses operators that ONNX Runtime does not know."""
    try:
        return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each cause
        raise SourceError(
            f"ONNX Runtime {ort.__version__} cannot run {path.name}: {first_line(error)}; export it again "
            "with operators and an opset that this version knows"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of a message."""
    return str(error).splitlines()[0]


def refuse_damaged(model: onnx.ModelProto) -> None:
    """Raise SourceError when a weight is NaN or infinite."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise SourceError(
                f"the weight {tensor.name} holds NaN or infinity: the training of this model failed or "
                "the file is damaged, use another checkpoint"
            )


def embedding_rows(model: onnx.ModelProto) -> int | None:
    """How many token ids the graph knows: the rows of the table that input_ids look up."""
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and "input_ids" in node.input and node.input[0] in sizes:
            return int(sizes[node.input[0]][0])
    return None


def complete(model: onnx.ModelProto, task: Task) -> onnx.ModelProto:
    """The graph with the task's one output: pooled and normalised, softened, or as it is."""
    output = pick_output(model, task)
    rank = len(output.type.tensor_type.shape.dim)
    name = OUTPUTS[task]
    match task, rank:
        case "embed", 3:
            added, width = pooling_nodes(output.name, name), last_dim(output)
        case "embed", 2:
            added, width = [normalise(output.name, name)], last_dim(output)
        case "classify", 2:
            added = [helper.make_node("Softmax", [output.name], [name], axis=1)]
            width = last_dim(output)
        case "rerank", 2:
            added, width = [helper.make_node("Identity", [output.name], [name])], 1
        case _:
            raise SourceError(
                f"the output {output.name} has {rank} dimensions, which is nothing that {task} can use: "
                "export the graph with [batch, dim] or [batch, tokens, dim]"
            )
    if task == "rerank" and last_dim(output) != 1:
        raise SourceError(
            f"a reranker gives one score, this graph gives {last_dim(output)}: use task: classify"
        )
    model.graph.node.extend(added)
    if rank == 3:
        axis = numpy_helper.from_array(np.array([2], dtype=np.int64), "farshore_axis")
        model.graph.initializer.append(axis)
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", width])
    )
    return model


def pick_output(model: onnx.ModelProto, task: Task) -> onnx.ValueInfoProto:
    """The output to serve: the only one, or by its usual name."""
    outputs = {output.name: output for output in model.graph.output}
    usual = {
        "embed": ("sentence_embedding", "embedding", "last_hidden_state", "token_embeddings"),
        "classify": ("logits",),
        "rerank": ("logits", "score"),
    }[task]
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    for name in usual:
        if name in outputs:
            return outputs[name]
    raise SourceError(
        f"the graph has the outputs {', '.join(outputs)}: none is called {' or '.join(usual)}; export it "
        "with one output"
    )


def pooling_nodes(hidden: str, name: str) -> list[onnx.NodeProto]:
    """The mean over [N, T, dim] where the mask is 1, normalised."""
    make = helper.make_node
    return [
        make("Cast", ["attention_mask"], ["farshore_mask"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["farshore_mask", "farshore_axis"], ["farshore_column"]),
        make("Mul", [hidden, "farshore_column"], ["farshore_kept"]),
        make("ReduceMean", ["farshore_kept"], ["farshore_mean"], axes=[1], keepdims=0),
        normalise("farshore_mean", name),  # the mean's divisor does not matter to the direction
    ]


def normalise(vectors: str, name: str) -> onnx.NodeProto:
    """Unit vectors."""
    return helper.make_node("LpNormalization", [vectors], [name], axis=1, p=2)


def last_dim(output: Any) -> int:
    """The size of the last dimension; raises SourceError when the graph does not say."""
    size = int(output.type.tensor_type.shape.dim[-1].dim_value)
    if size <= 0:
        raise SourceError(
            f"the last dimension of {output.name} is not fixed: export the graph with its size"
        )
    return size
