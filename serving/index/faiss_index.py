"""The adapter to FAISS: the one module of the index that calls it, but for gpu_clone.py and its GPU side."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Shards share cores: a thread that has nothing to do must sleep, not spin. Read when libgomp is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import faiss as untyped

from serving.errors import CorruptIndexError
from serving.index.layout import Layout
from serving.index.metric import Ids, Metric, Vectors

faiss: Any = untyped  # its own annotations lack most of it

METRICS: dict[Metric, int] = {
    "inner_product": faiss.METRIC_INNER_PRODUCT,
    "l2": faiss.METRIC_L2,
}
PART_ROWS = 16_384  # given to FAISS at a time
# FAISS starts them anew for each search of lists on disk. Measured with 48 lists of 29 KB visited: its own 32
# take 2.0 ms when all is in the page cache and 15 when nothing is, four 0.3 and 13; in memory it is 0.2 ms.
READ_AHEAD_THREADS = 4
TRAINING_VECTORS_PER_LIST = 64  # k-means wants 39 at least and does not use more than 256

Bitmap = NDArray[np.uint8]

MISSING = -1  # position where there is no row


def set_threads(threads: int) -> None:
    """Threads that a call of this thread may use."""
    faiss.omp_set_num_threads(threads)


def new_index(layout: Layout, dim: int, metric: Metric) -> Any:
    """An empty, untrained index."""
    index = faiss.index_factory(dim, layout.factory(), METRICS[metric])
    if layout.is_hnsw:
        index.hnsw.efConstruction = 80
    return index


def training_size(layout: Layout) -> int:
    """Vectors that training wants; 0 where nothing is trained."""
    if layout.is_ivf:
        return max(layout.lists * TRAINING_VECTORS_PER_LIST, 20_000)
    return 20_000 if layout.kind == "hnsw-sq8" else 0


def train(index: Any, sample: Vectors) -> None:
    """Train on a sample [n, dim], reproducibly."""
    if hasattr(index, "cp"):
        index.cp.seed = 1
        index.cp.niter = 10
    index.train(np.ascontiguousarray(sample, dtype=np.float32))


def add(index: Any, vectors: Vectors) -> None:
    """Append vectors [n, dim]; their positions follow those that are there."""
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))


def fill(index: Any, rows: Vectors) -> None:
    """Put all rows [n, dim] into an empty, trained index that takes no more memory than it needs.

    FAISS appends row by row, for which a list that grows may take twice its size. Here it is known first
    how long each will be; the codes are those that `add` makes.
    """
    if not hasattr(index, "invlists"):
        add(index, rows)  # one append: exactly as large as it must be
        return
    lists = [index.quantizer.search(part, 1)[1].ravel() for part in parts_of(rows)]
    lengths = np.zeros(index.nlist, dtype=np.int64)
    for numbers in lists:
        lengths += np.bincount(numbers, minlength=index.nlist)
    for number, length in enumerate(lengths.tolist()):
        index.invlists.resize(number, length)
        index.invlists.resize(number, 0)  # which keeps the room
    for part, numbers in zip(parts_of(rows), lists, strict=True):
        index.add_core(len(part), faiss.swig_ptr(part), None, faiss.swig_ptr(numbers))


def parts_of(rows: Vectors) -> Iterator[Vectors]:
    """Consecutive parts of rows [n, dim], as FAISS takes them."""
    for start in range(0, len(rows), PART_ROWS):
        yield np.ascontiguousarray(rows[start : start + PART_ROWS], dtype=np.float32)


def save(index: Any, path: Path) -> None:
    """Write an index."""
    faiss.write_index(index, str(path))


def load(path: Path, *, on_disk: bool = False) -> Any:
    """Read an index; `on_disk` maps its inverted lists instead of reading them.

    Raises CorruptIndexError.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if on_disk else 0)
    except RuntimeError as error:
        raise CorruptIndexError(
            f"{path} is no index that FAISS can read: restore it, or build the generation again"
        ) from error
    if on_disk and hasattr(index, "invlists"):
        faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = READ_AHEAD_THREADS
    return index


def search(
    index: Any, layout: Layout, queries: Vectors, k: int, effort: int, members: Bitmap | None
) -> tuple[Ids, Vectors]:
    """Positions [N, k], MISSING where there are fewer, and scores [N, k] of the best rows.

    `members` holds a bit per position, those that may be found; None: all.
    """
    selector = None if members is None else faiss.IDSelectorBitmap(members)
    scores, positions = index.search(
        np.ascontiguousarray(queries, dtype=np.float32),
        k,
        params=parameters(layout, effort or layout.effort, selector),
    )
    return positions, scores


def parameters(layout: Layout, effort: int, selector: Any) -> Any:
    """How hard to look, and among what; None where FAISS' default says it."""
    chosen = {} if selector is None else {"sel": selector}
    if layout.is_ivf:
        return faiss.SearchParametersIVF(nprobe=min(max(effort, 1), layout.lists), **chosen)
    if layout.is_hnsw:
        return faiss.SearchParametersHNSW(efSearch=max(effort, 1), **chosen)
    return faiss.SearchParameters(**chosen) if chosen else None


def brute_force(queries: Vectors, rows: Vectors, k: int, metric: Metric) -> tuple[Ids, Vectors]:
    """Positions [N, min(k, M)] and exact scores of the best of `rows` [M, dim]."""
    scores, positions = faiss.knn(
        np.ascontiguousarray(queries, dtype=np.float32),
        np.ascontiguousarray(rows, dtype=np.float32),
        min(k, len(rows)),
        metric=METRICS[metric],
    )
    return positions, scores


def selected(positions: NDArray[np.int64], rows: int) -> Bitmap:
    """A bitmap over `rows` positions with these ones set."""
    bits = np.zeros(rows, dtype=np.uint8)
    bits[positions] = 1
    return np.packbits(bits, bitorder="little")
