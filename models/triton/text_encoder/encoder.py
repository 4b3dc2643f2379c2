"""Tokenize, batch by length, run ONNX Runtime: the whole path from text to numbers of one process.

What comes out depends on the model: a vector, calibrated probabilities of classes, or a score of a pair.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

from .batches import plan_batches
from .tokens import Item, TextTokenizer, open_tokenizer, padded_inputs

SETTINGS_NAME = "encoder.json"
# On CPUs ONNX Runtime 1.31 takes longer for either fused form than for its two parts: without them INT8
# graphs run 1.07 to 1.16 times as fast, FP32 graphs the same.
SLOW_ON_CPU = ("SkipLayerNormFusion", "BiasGeluFusion")


@dataclass(frozen=True)
class EncoderSettings:
    """What `encoder.json` holds.

    `workers` is how many runs go on at the same time, each on one thread; 0 means one for every core
    this process may use. Threads that share a run wait for one another at every operator: on two
    cores, runs side by side encode 32 questions in 0.75 of the time and one question in the same.
    `inputs` and `output` are tensor names of the served model; `vectors` is how embeddings are sent.
    """

    max_tokens: int
    token_budget: int
    workers: int
    providers: tuple[str, ...]
    inputs: tuple[str, ...] = ("text",)
    output: str = "embedding"
    vectors: str = "fp32"


@dataclass(frozen=True)
class Encoded:
    """outputs [N, dim] float32; token_counts [N] int32, of the whole texts before truncation."""

    outputs: npt.NDArray[np.float32]
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
        lists = {name: tuple(stored[name]) for name in ("providers", "inputs")}
        settings = EncoderSettings(**{**stored, **lists})
        return cls(
            session=open_session(directory / "model.onnx", settings),
            tokenizer=open_tokenizer(directory / "tokenizer.json", settings.max_tokens),
            settings=settings,
        )

    def encode(self, items: Sequence[Item]) -> Encoded:
        """Encode N texts or pairs, each truncated at `max_tokens`, in their own order."""
        if not items:
            raise ValueError("no texts to encode: pass at least one")
        encodings, whole_lengths = self._tokens.encode(items)
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
        batches = plan_batches(lengths, self.settings.token_budget, self.workers)
        results = self._run_all([[encodings[i] for i in batch] for batch in batches])
        outputs = np.empty((len(items), results[0].shape[1]), dtype=np.float32)
        outputs[np.concatenate(batches)] = np.concatenate(results)
        return Encoded(outputs, whole_lengths)

    @property
    def workers(self) -> int:
        """How many runs go on at the same time."""
        return self.settings.workers or len(os.sched_getaffinity(0))

    @cached_property
    def _tokens(self) -> TextTokenizer:
        return TextTokenizer(self.tokenizer)

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
        (output,) = self.session.run(None, wanted)
        return np.asarray(output, dtype=np.float32)


def open_session(model: Path, settings: EncoderSettings) -> ort.InferenceSession:
    """Open an ONNX model on the providers of the settings, for runs on one thread each."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    only_cpu = settings.providers == ("CPUExecutionProvider",)
    return ort.InferenceSession(
        str(model),
        options,
        providers=list(settings.providers),
        disabled_optimizers=list(SLOW_ON_CPU) if only_cpu else None,
    )
