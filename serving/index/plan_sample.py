"""The sample of a plan: some of the vectors that will be indexed, and queries that are none of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.errors import PlanError
from serving.index.check import problem_of_vectors
from serving.index.metric import Vectors
from serving.index.sources import NpySource, ParquetSource, Source
from serving.index.trial import Sample, make_sample

MAX_ROWS = 100_000
MAX_QUERIES = 500
HELD_OUT = 0.05  # of the sample, where no queries are given
MIN_ROWS = 1_000  # below that every list is short and every search finds everything


def read_sample(options: argparse.Namespace) -> Sample:
    """The sample that the options of `plan` name, at random where it is larger than needed.

    Raises PlanError and what sources raise.
    """
    queries = None
    if options.queries is not None:
        queries = some_rows(NpySource(existing(options.queries)), MAX_QUERIES, options)
    limit = MAX_ROWS if queries is not None else MAX_ROWS + MAX_QUERIES
    rows = some_rows(sample_source(options), limit, options)
    if queries is None:
        held_out = min(MAX_QUERIES, int(HELD_OUT * len(rows)))
        queries, rows = rows[:held_out], rows[held_out:]
    if len(rows) < max(MIN_ROWS, options.k):
        raise PlanError(
            f"{options.sample} leaves {len(rows):,} rows to index: give at least "
            f"{max(MIN_ROWS, options.k):,} beside the queries, 100k say more"
        )
    return make_sample(rows, queries, options.k, options.metric)


def sample_source(options: argparse.Namespace) -> Source:
    """An .npy file or Parquet."""
    path = existing(options.sample)
    if path.suffix == ".npy":
        return NpySource(path)
    return ParquetSource((path,), options.id_column, options.vector_column)


def existing(path: Path) -> Path:
    """The path, which must be that of a file. Raises PlanError."""
    if not path.is_file():
        raise PlanError(f"{path} is missing: name a file of vectors")
    return path


def some_rows(source: Source, limit: int, options: argparse.Namespace) -> Vectors:
    """Up to `limit` rows [n, dim] of a source in random order, the same each time. Raises PlanError."""
    name = str(getattr(source, "path", options.sample))
    if source.dim != options.dim:
        raise PlanError(
            f"{name} holds vectors of {source.dim} components and --dim is {options.dim}: give vectors of "
            "the encoder that is planned for"
        )
    chance = np.random.default_rng(0)
    total = source.rows or 0
    chosen = np.sort(chance.permutation(total)[:limit])
    rows = picked(source, chosen)
    problem = problem_of_vectors(rows, options.dim, options.metric)
    if problem:
        raise PlanError(f"of the rows read from {name}, {problem}: correct or remove it")
    mixed: Vectors = rows[chance.permutation(len(rows))]
    return mixed


def picked(source: Source, chosen: Sequence[int] | np.ndarray) -> Vectors:  # type: ignore[type-arg]
    """The rows [n, dim] at these ascending positions [n]."""
    start, parts = 0, [np.empty((0, source.dim), dtype=np.float32)]
    for ids, vectors in source.chunks(0):
        first, last = np.searchsorted(chosen, [start, start + len(ids)])
        parts.append(vectors[np.asarray(chosen[first:last]) - start])
        start += len(ids)
    return np.concatenate(parts)
