"""The vectors that a bench indexes: those of the glosses, and as many more as are asked for, near to them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

JITTER = 0.35  # length of what is added to a unit vector before it is one again: cosine 0.94 to its origin
CHUNK_ROWS = 65_536
SEED = 7


def real_vectors(generation: Path) -> Vectors:
    """The rows [n, dim] that an index was built from, memory-mapped."""
    rows: Vectors = np.load(generation / "shard-0000/rows.npy", mmap_mode="r", allow_pickle=False)
    return rows


def write_copies(real: Vectors, rows: int, path: Path) -> None:
    """An .npy file [rows, dim]: the real vectors, then jittered copies of them, unless it is there."""
    if path.is_file() and open_vectors(path).shape == (rows, real.shape[1]):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    written: Any = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        temporary, mode="w+", dtype=np.float32, shape=(rows, real.shape[1])
    )
    for start, chunk in copies(real, rows):
        written[start : start + len(chunk)] = chunk
    written.flush()
    del written
    temporary.rename(path)


def copies(real: Vectors, rows: int) -> Iterator[tuple[int, Vectors]]:
    """Parts of that array, with where each begins; always the same."""
    chance = np.random.default_rng(SEED)
    for start in range(0, rows, CHUNK_ROWS):
        numbers = np.arange(start, min(start + CHUNK_ROWS, rows))
        chunk = np.asarray(real[numbers % len(real)])
        yield start, jittered(chunk, numbers >= len(real), chance)


def jittered(chunk: Vectors, moved: NDArray[np.bool_], chance: np.random.Generator) -> Vectors:
    """Unit vectors [n, dim], those that are `moved` turned a little in a random direction."""
    noise = chance.standard_normal(chunk.shape, dtype=np.float32)
    noise *= JITTER / np.linalg.norm(noise, axis=1, keepdims=True)
    turned = chunk + np.where(moved[:, None], noise, 0)
    unit: Vectors = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    return unit


def queries_near(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Queries [count, dim] near to indexed vectors, but none of them."""
    chance = np.random.default_rng(seed)
    chosen = np.sort(chance.choice(len(vectors), count, replace=False))
    return jittered(np.asarray(vectors[chosen]), np.ones(count, dtype=bool), chance)


def open_vectors(path: Path) -> Vectors:
    """Vectors [n, dim] of a file, memory-mapped."""
    opened: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    return opened
