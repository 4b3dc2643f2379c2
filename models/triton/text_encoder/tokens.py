"""Texts to token ids: what the encoder and, in front of a GPU, the tokenizer model share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

Item = str | tuple[str, str]  # a text, or the query and the text of a reranker

FEED = ("input_ids", "attention_mask", "token_type_ids")  # the inputs of BERT-like graphs


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer that truncates, and still knows how long the whole texts are."""

    tokenizer: Tokenizer

    def encode(self, items: Sequence[Item]) -> tuple[list[Encoding], npt.NDArray[np.int32]]:
        """The truncated encodings of N items, and the whole lengths [N]."""
        encodings = self.tokenizer.encode_batch_fast(list(items))
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
        cut = [row for row, encoding in enumerate(encodings) if encoding.overflowing]
        if cut:  # only what was truncated is tokenized again
            whole = self._whole.encode_batch_fast([items[row] for row in cut])
            lengths[cut] = [len(encoding) for encoding in whole]
        return encodings, lengths

    @cached_property
    def _whole(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.no_truncation()
        return tokenizer


def open_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """Open a fast tokenizer that truncates at `max_tokens` and leaves padding to the batches."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def padded_inputs(
    encodings: Sequence[Encoding], length: int | None = None
) -> dict[str, npt.NDArray[np.int64]]:
    """The three BERT inputs [N, length], zero-padded: id 0 is [PAD] in every BERT vocabulary.

    `length` None: that of the longest encoding.
    """
    if length is None:
        length = max(len(encoding) for encoding in encodings)
    feed = {name: np.zeros((len(encodings), length), dtype=np.int64) for name in FEED}
    for row, encoding in enumerate(encodings):
        size = len(encoding)
        feed["input_ids"][row, :size] = encoding.ids
        feed["attention_mask"][row, :size] = 1
        feed["token_type_ids"][row, :size] = encoding.type_ids
    return feed


def bucket_of(longest: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `longest` tokens.

    Triton's dynamic batcher joins requests of equal shape only: few lengths make large batches.
    """
    return next(bucket for bucket in sorted(buckets) if bucket >= longest)


def decoded_items(request: Any, inputs: Sequence[str], tensor_of: Any) -> list[Item]:
    """The texts of one Triton request, or its pairs when the model has two inputs, in order.

    `tensor_of` is pb_utils.get_input_tensor_by_name. Raises UnicodeDecodeError.
    """
    columns = [
        [raw.decode() for raw in tensor_of(request, name).as_numpy().ravel()] for name in inputs
    ]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
