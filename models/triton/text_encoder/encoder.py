"""Tokenize, batch by length, run ONNX Runtime: the whole text-to-vector path of one process."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

from .batches import plan_batches

SETTINGS_NAME = "encoder.json"


@dataclass(frozen=True)
class EncoderSettings:
    """What `encoder.json` holds.

    `workers` is how many runs go on at the same time, each on one thread; 0 means one for every core
    this process may use. Threads that share a run wait for one another at every operator: on two
    cores, runs side by side encode 32 questions in 0.75 of the time and one question in the same.
    """

    max_tokens: int
    token_budget: int
    workers: int
    providers: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """embeddings [N, dim] float32; token_counts [N] int32, of the whole texts before truncation."""

    embeddings: npt.NDArray[np.float32]
    token_counts: npt.NDArray[np.int32]


@dataclass(frozen=True)
class TextEncoder:
    """A loaded model. `from_directory` loads, `encode` works and may be called from any thread."""

    session: ort.InferenceSession
    tokenizer: Tokenizer
    settings: EncoderSettings

    @classmethod
    def from_directory(cls, directory: Path) -> "TextEncoder":
        """Load model.onnx, tokenizer.json and encoder.json from a version directory."""
        stored = json.loads((directory / SETTINGS_NAME).read_text())
        settings = EncoderSettings(**{**stored, "providers": tuple(stored["providers"])})
        return cls(
            session=open_session(directory / "model.onnx", settings),
            tokenizer=open_tokenizer(directory / "tokenizer.json", settings.max_tokens),
            settings=settings,
        )

    def encode(self, texts: list[str]) -> Encoded:
        """Encode N texts, each truncated at `max_tokens`, in their own order."""
        if not texts:
            raise ValueError("no texts to encode: pass at least one")
        encodings = self.tokenizer.encode_batch_fast(texts)
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
        batches = plan_batches(lengths, self.settings.token_budget, self.workers)
        vectors = self._run_all([[encodings[i] for i in batch] for batch in batches])
        embeddings = np.empty((len(texts), vectors[0].shape[1]), dtype=np.float32)
        embeddings[np.concatenate(batches)] = np.concatenate(vectors)
        return Encoded(embeddings, self._whole_lengths(encodings))

    @property
    def workers(self) -> int:
        """How many runs go on at the same time."""
        return self.settings.workers or len(os.sched_getaffinity(0))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="encoder")

    @cached_property
    def _input_names(self) -> frozenset[str]:
        return frozenset(node.name for node in self.session.get_inputs())

    def _run_all(self, batches: list[list[Encoding]]) -> list[npt.NDArray[np.float32]]:
        if len(batches) == 1:
            return [self._run(batches[0])]
        return list(self._pool.map(self._run, batches))

    def _run(self, encodings: list[Encoding]) -> npt.NDArray[np.float32]:
        feed = padded_inputs(encodings)
        wanted = {name: ids for name, ids in feed.items() if name in self._input_names}
        (vectors,) = self.session.run(None, wanted)
        return np.asarray(vectors, dtype=np.float32)

    def _whole_lengths(self, encodings: list[Encoding]) -> npt.NDArray[np.int32]:
        special = self.tokenizer.num_special_tokens_to_add(False)
        return np.array(
            [len(e) + sum(len(rest) - special for rest in e.overflowing) for e in encodings],
            dtype=np.int32,
        )


def open_session(model: Path, settings: EncoderSettings) -> ort.InferenceSession:
    """Open an ONNX model on the providers of the settings, for runs on one thread each."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(str(model), options, providers=list(settings.providers))


def open_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """Open a fast tokenizer that truncates at `max_tokens` and leaves padding to the batches."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def padded_inputs(encodings: list[Encoding]) -> dict[str, npt.NDArray[np.int64]]:
    """The three BERT inputs [N, longest], zero-padded: id 0 is [PAD] in every BERT vocabulary."""
    longest = max(len(encoding) for encoding in encodings)
    names = ("input_ids", "attention_mask", "token_type_ids")
    feed = {name: np.zeros((len(encodings), longest), dtype=np.int64) for name in names}
    for row, encoding in enumerate(encodings):
        size = len(encoding)
        feed["input_ids"][row, :size] = encoding.ids
        feed["attention_mask"][row, :size] = 1
        feed["token_type_ids"][row, :size] = encoding.type_ids
    return feed
