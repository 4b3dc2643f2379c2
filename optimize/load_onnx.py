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
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from tokenizers import Tokenizer

from models.manifest import Task
from models.triton.text_encoder.tokens import FEED, Item, open_tokenizer, padded_inputs
from optimize.complete_graph import complete
from optimize.errors import SourceError
from optimize.load_checks import refuse_other_tokenizer, refuse_too_large
from optimize.modules import Pooling

BATCH = 32  # the default of sentence-transformers' cross-encoders
MAX_BYTES = 2 * 10**9  # of a graph in one file, the limit of its format
SHORT, LONG = "short", "a text of many words, for the longest input that is served "
PASSES = ("Cast", "Identity")  # between input_ids and the table that they look up


@dataclass(frozen=True)
class GraphModel:
    """The graph in plain ONNX Runtime with its default threads: how it runs before anything is done."""

    session: ort.InferenceSession
    tokenizer: Tokenizer

    def encode(self, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """N texts or pairs -> [N, dim], BATCH at a time as they come, padded to their longest."""
        starts = range(0, len(items), BATCH)
        runs = [self.run(items[start : start + BATCH]) for start in starts]
        return np.concatenate([np.asarray(outputs[0], dtype=np.float32) for outputs in runs])

    def run(self, items: Sequence[Item]) -> list[npt.NDArray[Any]]:
        """Every output of one run."""
        feed = padded_inputs(self.tokenizer.encode_batch_fast(list(items)))
        wanted = {node.name for node in self.session.get_inputs()}
        outputs = self.session.run(None, {n: ids for n, ids in feed.items() if n in wanted})
        return [np.asarray(output) for output in outputs]


def open_graph(directory: Path, max_tokens: int) -> GraphModel:
    """The graph of a source step."""
    tokenizer = open_tokenizer(directory / "tokenizer.json", max_tokens)
    return GraphModel(open_session(directory / "model.onnx"), tokenizer)


def adopt_graph(
    graph: Path,
    tokenizer: Path,
    task: Task,
    destination: Path,
    max_tokens: int = 64,
    pooling: Pooling = "mean",
) -> None:
    """Write model.onnx and tokenizer.json to `destination`. Raises SourceError on what cannot be served.

    The graph is run once, on a short and on a longest input: what comes out says how to complete it.
    """
    for path in (graph, tokenizer):
        if not path.is_file():
            raise SourceError(f"no file at {path}: correct the recipe's source")
    refuse_unwieldy([graph, *external_files(graph)])
    model = read_graph(graph)
    refuse_damaged(model)
    session = open_session(graph)
    unknown = [node.name for node in session.get_inputs() if node.name not in FEED]
    if unknown:
        raise SourceError(
            f"{graph.name} has the inputs {', '.join(unknown)}: only {', '.join(FEED)} can be fed"
        )
    opened = open_any_tokenizer(tokenizer, max_tokens)
    if (rows := embedding_rows(model)) is not None:
        refuse_other_tokenizer(opened, {"vocab_size": rows})
    seen = try_out(GraphModel(session, opened), graph.name, task, max_tokens)
    complete(model, task, seen, pooling)
    onnx.save(model, destination / "model.onnx")
    open_session(destination / "model.onnx")
    shutil.copyfile(tokenizer, destination / "tokenizer.json")


def external_files(graph: Path) -> list[Path]:
    """The files that hold the graph's weights beside it; none where it holds them itself."""
    if not graph.is_file():
        return []
    tensors = read_graph(graph, weights=False).graph.initializer
    names = {ExternalDataInfo(t).location for t in tensors if uses_external_data(t)}
    return [graph.parent / name for name in sorted(names)]


def refuse_unwieldy(files: Sequence[Path]) -> None:
    """Raise SourceError when a file is missing, or all are too large for one graph or for this machine."""
    if missing := [path.name for path in files if not path.is_file()]:
        raise SourceError(
            f"{files[0].name} keeps weights in {', '.join(missing)}, not found beside it: fetch them too"
        )
    size_bytes = sum(path.stat().st_size for path in files)
    if size_bytes > MAX_BYTES:
        raise SourceError(
            f"{files[0].name} has {size_bytes / 1e9:.1f} GB of weights, a graph in one file holds 2: "
            "bring the model as a Hugging Face directory of a smaller model, or in FP16"
        )
    refuse_too_large(*files)


def read_graph(path: Path, weights: bool = True) -> onnx.ModelProto:
    """Parse a graph, with its external data unless told otherwise. Raises SourceError."""
    try:
        return onnx.load(path, load_external_data=weights)
    except Exception as error:  # protobuf and onnx raise many kinds for one damaged file
        raise SourceError(
            f"{path.name} is not an ONNX graph that can be read ({type(error).__name__}): fetch it again, "
            "with the files of its external data beside it"
        ) from error


def open_session(path: Path) -> ort.InferenceSession:
    """Open a graph on the CPU, which refuses operators that ONNX Runtime does not know."""
    try:
        return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each cause
        raise SourceError(
            f"ONNX Runtime {ort.__version__} cannot run {path.name}: {first_line(error)}; export it again "
            "with operators and an opset that this version knows"
        ) from error


def open_any_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer of a graph. Raises SourceError when the file is none."""
    try:
        return open_tokenizer(path, max_tokens)
    except Exception as error:  # tokenizers raises plain Exception
        raise SourceError(
            f"{path.name} is not a fast tokenizer ({first_line(error)}): take tokenizer.json from where "
            "the weights are from"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of a message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def refuse_damaged(model: onnx.ModelProto) -> None:
    """Raise SourceError when a weight is NaN or infinite; single numbers may be: masks are made of them."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.size > 1 and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise SourceError(
                f"the weight {tensor.name} holds NaN or infinity: the training of this model failed or "
                "the file is damaged, use another checkpoint"
            )


def embedding_rows(model: onnx.ModelProto) -> int | None:
    """How many token ids the graph knows: the rows of the table that input_ids look up."""
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    ids = {"input_ids"}
    for node in model.graph.node:
        if node.op_type in PASSES and node.input[0] in ids:
            ids |= set(node.output)
        if node.op_type == "Gather" and node.input[1] in ids and node.input[0] in sizes:
            return int(sizes[node.input[0]][0])
    return None


def try_out(
    model: GraphModel, name: str, task: Task, max_tokens: int
) -> dict[str, npt.NDArray[Any]]:
    """Each output of a run on a short and a longest item. Raises SourceError when it fails or gives NaN."""
    texts = [SHORT, LONG * max_tokens]
    items: list[Item] = [(SHORT, text) for text in texts] if task == "rerank" else [*texts]
    try:
        outputs = model.run(items)
    except Exception as error:  # ONNX Runtime raises a class of its own for each cause
        raise SourceError(
            f"{name} does not run on two texts of up to {max_tokens} tokens: {first_line(error)}; lower "
            "max_tokens to what the model was trained with, or export it with a dynamic batch and length"
        ) from error
    seen = {
        node.name: values for node, values in zip(model.session.get_outputs(), outputs, strict=True)
    }
    if damaged := [n for n, v in seen.items() if v.dtype.kind == "f" and np.isnan(v).any()]:
        raise SourceError(
            f"{name} answers with NaN ({', '.join(damaged)}): its weights are damaged, use another checkpoint"
        )
    return seen
