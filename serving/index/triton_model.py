"""The adapter between Triton's python backend and a shard.

One instance executes one batch at a time: writes first, then searches as few matrix searches, then lookups.
Interface reference: the python_backend repository's README (TritonPythonModel, pb_utils).
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import triton_python_backend_utils as pb_utils

from serving.index import faiss_index
from serving.index.compactor import Compactor
from serving.index.footprint import check_fits
from serving.index.generation import read_generation
from serving.index.gpu import GpuUse
from serving.index.gpu_clone import cloner
from serving.index.merge import Hits
from serving.index.operations import (
    FILTER,
    FOUND,
    IDS,
    SCORES,
    SEQUENCE,
    STATUS,
    VECTORS,
    Asked,
    MalformedRequestError,
    group_searches,
    read_request,
)
from serving.index.recall import RecallSampler
from serving.index.shard import Shard

SWITCH_INTERVAL_S = 5e-4  # Python's own is ten times that

# By the request's number: tensors, or an error of pb_utils.
Answers = dict[int, Any]


class TritonPythonModel:
    """One replica of one shard."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the shard that the model's configuration names, unless it does not fit."""
        parameters = json.loads(args["model_config"])["parameters"]
        said = {name: value["string_value"] for name, value in parameters.items()}
        generation, shard = Path(said["generation"]), int(said["shard"])
        check_fits(generation, shard, int(said["budget_bytes"]))
        faiss_index.set_threads(int(said["threads"]))
        # A search that waits for a thread in the background (adopting a segment) gets the interpreter sooner.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        clone = None
        if "gpu" in said:
            clone = cloner(GpuUse.model_validate_json(said["gpu"]), read_generation(generation))
        self.shard = Shard(generation, shard, Path(said["state"]), clone)
        turn = Path(said["turn"]) if "turn" in said else None
        self.compactor = Compactor(self.shard, turn=turn)
        self.sampler = RecallSampler()
        self.frozen_until_s = 0.0

    def finalize(self) -> None:
        """Leave nothing running."""
        self.compactor.stop()
        self.shard.close()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; a malformed one fails alone."""
        answers: Answers = {}
        asked: list[tuple[int, Asked]] = []
        for number, request in enumerate(requests):
            try:
                asked.append((number, self.read(request)))
            except MalformedRequestError as error:
                answers[number] = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        for work in (self.write, self.search, self.filtered, self.lookup, self.report):
            answers |= work(asked)
        return [response(answers[number]) for number in range(len(requests))]

    def read(self, request: Any) -> Asked:
        """A request as values."""
        found = (pb_utils.get_input_tensor_by_name(request, n) for n in (VECTORS, IDS, FILTER))
        tensors = {tensor.name(): tensor.as_numpy() for tensor in found if tensor is not None}
        parameters = json.loads(request.parameters() or "{}")
        return read_request(parameters, tensors, self.shard.generation.dim)

    def write(self, asked: Sequence[tuple[int, Asked]]) -> Answers:
        """All changes of the batch, made safe by one flush to the disk."""
        changes = [(n, a) for n, a in asked if a.operation in ("upsert", "delete")]
        if not changes:
            return {}
        if time.monotonic() < self.frozen_until_s:
            error = unavailable("its generation is being replaced: try again in a moment")
            return dict.fromkeys((n for n, _ in changes), error)
        try:
            sequence = self.shard.write(
                [(a.operation, a.version_ns, a.ids, a.vectors) for _, a in changes]  # type: ignore[misc]
            )
        except OSError as failed:
            error = unavailable(
                f"the log cannot be written ({failed.strerror}): free space on the shard's disk"
            )
            return dict.fromkeys((n for n, _ in changes), error)
        self.compactor.start_if_due()
        return {n: {SEQUENCE: np.full((len(a.ids), 1), sequence)} for n, a in changes}

    def search(self, asked: Sequence[tuple[int, Asked]]) -> Answers:
        """Every search without a filter, in one matrix per effort."""
        answers: Answers = {}
        for group in group_searches([(n, a) for n, a in asked if a.is_plain_search]):
            queries = np.concatenate([a.vectors for _, a in group])
            effort = group[0][1].effort
            hits = self.shard.search(queries, max(a.k for _, a in group), effort)
            self.sampler.offer(queries[0], effort, self.shard.view)
            start = 0
            for n, a in group:
                rows = slice(start, start + len(a.vectors))
                start = rows.stop
                answers[n] = {IDS: hits.ids[rows, : a.k], SCORES: hits.scores[rows, : a.k]}
        return answers

    def filtered(self, asked: Sequence[tuple[int, Asked]]) -> Answers:
        """Searches among given ids, one query at a time."""
        answers: Answers = {}
        for n, a in asked:
            if a.operation != "search" or a.is_plain_search:
                continue
            hits = [self.search_one(a, row) for row in range(len(a.vectors))]
            answers[n] = {
                IDS: np.concatenate([part.ids for part in hits]),
                SCORES: np.concatenate([part.scores for part in hits]),
            }
        return answers

    def search_one(self, asked: Asked, row: int) -> Hits:
        """One query of a request in which some have a filter."""
        among = asked.filters[row]
        if among is None:
            return self.shard.search(asked.vectors[row : row + 1], asked.k, asked.effort)
        return self.shard.search_among(asked.vectors[row], among, asked.k, asked.effort)

    def lookup(self, asked: Sequence[tuple[int, Asked]]) -> Answers:
        """Rows by id."""
        answers: Answers = {}
        for n, a in asked:
            if a.operation == "lookup":
                rows, found = self.shard.lookup(a.ids)
                answers[n] = {VECTORS: rows, FOUND: found.reshape(-1, 1)}
        return answers

    def report(self, asked: Sequence[tuple[int, Asked]]) -> Answers:
        """How the shard is, after `compact` had it begin a compaction or `freeze` refuse writes."""
        answers: Answers = {}
        for n, a in asked:
            if a.operation == "compact":
                self.compactor.start()
            if a.operation == "freeze":
                self.frozen_until_s = time.monotonic() + a.seconds
            if a.operation in ("status", "compact", "freeze"):
                answers[n] = {
                    STATUS: np.array([[json.dumps(self.status()).encode()]], dtype=object)
                }
        return answers

    def status(self) -> dict[str, Any]:
        """What `status` answers."""
        memory = psutil.Process().memory_full_info()
        return {
            **asdict(self.shard.counts()),
            "generation": self.shard.generation.name,
            "gpu": clone.device if (clone := self.shard.segment.clone) else None,
            "compacting": self.compactor.running,
            "compaction_error": self.compactor.last_error,
            "recall_at_10": self.sampler.recall,
            "recall_samples": self.sampler.samples,
            "rss_bytes": memory.rss,
            "unshared_bytes": memory.uss,
        }


def unavailable(words: str) -> Any:
    """The error of a shard that will answer later."""
    return pb_utils.TritonError(words, pb_utils.TritonError.UNAVAILABLE)


def response(answer: Any) -> Any:
    """A Triton response from tensors, or from an error."""
    if isinstance(answer, pb_utils.TritonError):
        return pb_utils.InferenceResponse(error=answer)
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in answer.items()]
    return pb_utils.InferenceResponse(tensors)
