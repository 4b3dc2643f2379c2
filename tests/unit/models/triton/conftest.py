"""A model made by hand: the mean of random word vectors, with a tokenizer that knows 100 words."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from models.triton.text_encoder.encoder import TextEncoder

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(100))]
DIM = 4
MAX_TOKENS = 16
TOKEN_BUDGET = 40


@pytest.fixture(scope="session")
def version_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version directory as it lies in a repository."""
    directory = tmp_path_factory.mktemp("version")
    onnx.save(mean_of_words(), directory / "model.onnx")
    word_tokenizer().save(str(directory / "tokenizer.json"))
    settings = {
        "max_tokens": MAX_TOKENS,
        "token_budget": TOKEN_BUDGET,
        "workers": 2,
        "providers": ["CPUExecutionProvider"],
        "inputs": ["text"],
    }
    (directory / "encoder.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="session")
def encoder(version_directory: Path) -> TextEncoder:
    return TextEncoder.from_directory(version_directory)


@pytest.fixture
def tokenizer() -> Tokenizer:
    """The same tokenizer without truncation."""
    return word_tokenizer()


def mean_of_words() -> onnx.ModelProto:
    """ids, mask [N, T] -> unit vectors [N, DIM]; it has no token_type_ids, as DistilBERT has none."""
    table = np.random.default_rng(0).normal(size=(len(VOCABULARY), DIM)).astype(np.float32)
    initializers = {"table": table, "last": np.array([2]), "sequence": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),  # [N, T, DIM]
        helper.make_node("Cast", ["attention_mask"], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["flat", "last"], ["mask"]),  # [N, T, 1]
        helper.make_node("Mul", ["words", "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "sequence"], ["sum"], keepdims=0),  # [N, DIM]
        helper.make_node("LpNormalization", ["sum"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "mean-of-words",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def word_tokenizer() -> Tokenizer:
    """Words between spaces, with [CLS] and [SEP] around them."""
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return tokenizer
