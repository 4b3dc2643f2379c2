"""A static student: one vector per token, averaged, in its teacher's space. No transformer is run.

The token vectors are model2vec's: each token through the teacher, PCA, weighted down by frequency
(MinishLab, Model2Vec, 2024). A ridge regression then maps a text's mean onto the teacher's vector of it;
as a mean is linear, the map goes into the table, and the graph is a look-up, a mean and a normalisation.
"""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from model2vec.distill import distill_from_model
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import Ridge
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from models.manifest import EMBEDDING_OUTPUT
from optimize.distill.teacher import VECTORS
from optimize.errors import TrainingError
from optimize.load import SourceModel, open_source
from optimize.sections import StaticDistillation

OPSET, IR_VERSION = 17, 9
RIDGE_ALPHA = 1e-3  # hardly any: there are a hundred texts for each dimension

Table = npt.NDArray[np.float32]


def write_static(
    source: Path,
    texts: Sequence[str],
    teacher: Path,
    section: StaticDistillation,
    max_tokens: int,
    destination: Path,
) -> None:
    """The step: model.onnx with inputs input_ids and attention_mask [N, T], output embedding [N, dim]."""
    model = open_source(source, max_tokens)
    table = token_vectors(model, source / "tokenizer.json", section.dimensions)
    means = mean_vectors(table, model.tokenizer, texts)
    mapped, bias = map_into_space(table, means, np.load(teacher / VECTORS))
    onnx.save(static_graph(mapped, bias), destination / "model.onnx")


def token_vectors(model: SourceModel, tokenizer_path: Path, dimensions: int) -> Table:
    """[vocabulary, dimensions] in the order of the teacher's token ids; special tokens are 0."""
    named = model.tokenizer
    padding = named.id_to_token(0)  # as padded_inputs pads
    unknown = json.loads(tokenizer_path.read_text())["model"].get("unk_token") or padding
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_path), unk_token=unknown, pad_token=padding
    )
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar is not ours
        static = distill_from_model(
            model=model.module.encoder,
            tokenizer=tokenizer,
            pca_dims=dimensions,
            token_remove_pattern=None,
            quantize_to="float32",
            device="cpu",
        )
    ids = named.get_vocab()
    table = np.zeros((max(ids.values()) + 1, static.embedding.shape[1]), dtype=np.float32)
    for token, row in static.tokenizer.get_vocab().items():
        if token in ids:
            table[ids[token]] = static.embedding[row]
    table[[ids.get(unknown, 0), *special_ids(named)]] = 0.0
    if not np.isfinite(table).all():
        raise TrainingError(
            "model2vec gave token vectors that are not numbers: drop static variants"
        )
    return table


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of tokens that stand for no text: they weigh nothing."""
    added = tokenizer.get_added_tokens_decoder().items()
    around = tokenizer.encode("").ids
    return sorted({0, *around, *(number for number, token in added if token.special)})


def mean_vectors(table: Table, tokenizer: Tokenizer, texts: Sequence[str]) -> Table:
    """[N, dimensions]: the mean over each text's tokens, special ones counted."""
    encodings = tokenizer.encode_batch_fast(list(texts))
    return np.stack([table[encoding.ids].mean(axis=0) for encoding in encodings])


def map_into_space(table: Table, means: Table, targets: Table) -> tuple[Table, Table]:
    """The table [vocabulary, dim] and the bias [dim] whose means come closest to the teacher."""
    scale = float(np.linalg.norm(means, axis=1).mean())
    ridge = Ridge(alpha=RIDGE_ALPHA * len(means)).fit(means / scale, targets)
    mapped = table @ ridge.coef_.T.astype(np.float32) / scale
    return mapped.astype(np.float32), ridge.intercept_.astype(np.float32)


def static_graph(table: Table, bias: Table) -> onnx.ModelProto:
    """Look up, average over the mask, add the bias, normalise."""
    return assemble_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["vectors"])],
        {"table": table},
        bias,
    )


def quantize_static_table(graph: Path, destination: Path) -> None:
    """The same student with its table in INT8, one scale per token."""
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(graph).graph.initializer}
    table = stored["table"]
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["small"]),
        helper.make_node("Gather", ["scales", "input_ids"], ["scale"]),
        helper.make_node("Cast", ["small"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["whole", "scale"], ["vectors"]),
    ]
    tables = {"table": np.round(table / scales).astype(np.int8), "scales": scales}
    onnx.save(assemble_graph(nodes, tables, stored["bias"]), destination / "model.onnx")


def assemble_graph(
    look_up: Sequence[onnx.NodeProto], tables: dict[str, npt.NDArray[np.generic]], bias: Table
) -> onnx.ModelProto:
    """A graph whose first nodes give `vectors` [N, T, dim]."""
    make = helper.make_node
    nodes = [
        *look_up,
        make("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),  # [N, T]
        make("Unsqueeze", ["weights", "one"], ["row"]),  # [N, 1, T]
        make("MatMul", ["row", "vectors"], ["sums"]),  # [N, 1, dim]
        make("Squeeze", ["sums", "one"], ["sum"]),  # [N, dim]
        make("ReduceSum", ["weights", "one"], ["count"], keepdims=1),  # [N, 1]
        make("Div", ["sum", "count"], ["mean"]),
        make("Add", ["mean", "bias"], ["moved"]),
        make("LpNormalization", ["moved"], [EMBEDDING_OUTPUT], axis=1, p=2),
    ]
    constants = {**tables, "bias": bias, "one": np.array([1], dtype=np.int64)}
    ids, dim = ["batch_size", "sequence_length"], bias.shape[0]
    graph = helper.make_graph(
        nodes,
        "static-student",
        inputs=[
            helper.make_tensor_value_info(name, TensorProto.INT64, ids)
            for name in ("input_ids", "attention_mask")
        ],
        outputs=[
            helper.make_tensor_value_info(EMBEDDING_OUTPUT, TensorProto.FLOAT, ["batch_size", dim])
        ],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model
