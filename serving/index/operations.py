"""What a shard is asked, as tensors of one Triton model, and how several requests become few operations.

Every request names its operation in the parameter `op`. Tensors are optional, with a row per item:

    search   vectors [N, dim], filter [N] (bytes of int64 ids, empty: none); k, effort -> ids, scores [N, k]
    lookup   ids [N]                                            -> vectors [N, dim], found [N]
    upsert   ids [N], vectors [N, dim]; version_ns              -> sequence [N]
    delete   ids [N]; version_ns                                -> sequence [N]
    status   ids [1], not read                                  -> status [1], JSON
    compact  ids [1], not read                                  -> status [1]; goes on in the background
    freeze   ids [1], not read; seconds                         -> status [1]; no writes for so long, 0: again
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from serving.index.check import problem_of_ids
from serving.index.metric import Ids, Vectors

Operation = Literal["search", "lookup", "upsert", "delete", "status", "compact", "freeze"]

# Names of tensors and parameters, for the model, its configuration and the client.
VECTORS, IDS, FILTER = "vectors", "ids", "filter"
SCORES, FOUND, SEQUENCE, STATUS = "scores", "found", "sequence", "status"
OP, K, EFFORT, VERSION_NS, SECONDS = "op", "k", "effort", "version_ns", "seconds"

MAX_BATCH = 1024  # queries, or rows, in one execution
MAX_K = 1000
MAX_EFFORT = 65_536  # an HNSW search reserves memory for so many candidates
MAX_NUMBER = 2**63 - 1

NEEDS: Mapping[Operation, tuple[str, ...]] = {
    "search": (VECTORS,),
    "lookup": (IDS,),
    "upsert": (IDS, VECTORS),
    "delete": (IDS,),
}
OUTPUTS: Mapping[Operation, tuple[str, ...]] = {
    "search": (IDS, SCORES),
    "lookup": (VECTORS, FOUND),
    "upsert": (SEQUENCE,),
    "delete": (SEQUENCE,),
    "status": (STATUS,),
    "compact": (STATUS,),
    "freeze": (STATUS,),
}


class MalformedRequestError(ValueError):
    """A request that no client of ours sends."""


@dataclass(frozen=True)
class Asked:
    """One request. `ids` [N], `vectors` [N, dim] and `filters` [N] are empty where it has none."""

    operation: Operation
    ids: Ids
    vectors: Vectors
    filters: tuple[Ids | None, ...]
    k: int = 0
    effort: int = 0
    version_ns: int = 0
    seconds: int = 0

    @property
    def is_plain_search(self) -> bool:
        """Whether it can share a matrix search with others."""
        return self.operation == "search" and not any(f is not None for f in self.filters)


def read_request(
    parameters: Mapping[str, object], tensors: Mapping[str, NDArray[Any]], dim: int
) -> Asked:
    """Check a request. Raises MalformedRequestError in words."""
    operation = parameters.get(OP)
    if operation not in get_args(Operation):
        raise MalformedRequestError(f"unknown operation {operation!r}")
    for name in NEEDS.get(operation, ()):  # type: ignore[call-overload]  # checked above
        if name not in tensors or not len(tensors[name]):
            raise MalformedRequestError(f"{operation} without {name}")
    vectors = tensors.get(VECTORS, np.empty((0, dim), np.float32))
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise MalformedRequestError(
            f"vectors of shape {vectors.shape}: {dim} components are needed"
        )
    ids = tensors.get(IDS, np.empty((0, 1), np.int64)).reshape(-1)
    if operation == "upsert" and len(ids) != len(vectors):
        raise MalformedRequestError(f"{len(ids)} ids and {len(vectors)} vectors")
    if operation == "upsert" and (problem := problem_of_ids(ids)):
        raise MalformedRequestError(problem)
    if not np.isfinite(vectors).all():
        raise MalformedRequestError("vectors hold NaN or infinite components")
    filters = tuple(map(read_filter, tensors.get(FILTER, np.empty((0, 1), object)).reshape(-1)))
    if filters and operation == "search" and len(filters) != len(vectors):
        raise MalformedRequestError(f"{len(filters)} filters and {len(vectors)} vectors")
    k, effort = number(parameters, K), number(parameters, EFFORT)
    if operation == "search" and not 1 <= k <= MAX_K:
        raise MalformedRequestError(f"k is {k}, from 1 to {MAX_K} are answered")
    if effort > MAX_EFFORT:
        raise MalformedRequestError(f"effort is {effort}, up to {MAX_EFFORT} is answered")
    return Asked(
        operation=operation,  # type: ignore[arg-type]  # checked above
        ids=ids,
        vectors=vectors,
        filters=filters,
        k=k,
        effort=effort,
        version_ns=number(parameters, VERSION_NS),
        seconds=number(parameters, SECONDS),
    )


def number(parameters: Mapping[str, object], name: str) -> int:
    """A whole number, 0 where it is missing."""
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise MalformedRequestError(f"{name} is {value!r}, not a whole number")
    return value


def read_filter(content: bytes) -> Ids | None:
    """The ids of a filter, None where there is none."""
    if not content:
        return None
    if len(content) % 8:
        raise MalformedRequestError("a filter is no array of int64")
    return np.frombuffer(content, dtype="<i8")


def group_searches(asked: Sequence[tuple[int, Asked]]) -> Iterable[list[tuple[int, Asked]]]:
    """Numbered requests that one matrix search can answer, together: those of equal effort."""
    groups: dict[int, list[tuple[int, Asked]]] = {}
    for numbered in asked:
        groups.setdefault(numbered[1].effort, []).append(numbered)
    return groups.values()
