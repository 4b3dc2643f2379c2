"""`python -m serving.index build`: from options to a source and a plan."""

import argparse
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import IndexBuildError
from serving.index.build import Announce, BuildPlan, build
from serving.index.encoding import run_encoder
from serving.index.follow import FollowedGeneration
from serving.index.generation import Generation, read_generation, shard_directory
from serving.index.layout import Layout, suggested_code_bytes, suggested_effort, suggested_lists
from serving.index.metric import Metric
from serving.index.replica_states import written_states
from serving.index.repository import check_name
from serving.index.sources import NpySource, ParquetSource, Source, TextSource


def build_generation(options: argparse.Namespace, announce: Announce) -> Generation:
    """Build what the options of `build` say. Raises ServingError."""
    check_name(options.index.name, "the index")
    check_name(options.name, "the generation")
    with source_of(options) as (source, space):
        rows = source.rows or 0
        plan = BuildPlan(
            directory=options.index,
            index=options.index.name,
            name=options.name,
            metric=metric_of(options, source),
            layout=layout_of(options, rows, source.dim),
            shards=options.shards,
            space=options.space or space,
            follows=options.from_generation or "",
            includes=source.includes if isinstance(source, FollowedGeneration) else (),
        )
        finish_all = None
        if options.ray:
            from serving.index.ray_build import finish_on_cluster

            finish_all = finish_on_cluster(options.ray, announce)
        return build(plan, source, announce, finish_all)


def metric_of(options: argparse.Namespace, source: Source) -> Metric:
    """The metric that is named, else that of the generation that is followed, else the inner product."""
    followed = (
        source.generation.metric if isinstance(source, FollowedGeneration) else "inner_product"
    )
    return options.metric or followed


@contextmanager
def source_of(options: argparse.Namespace) -> Iterator[tuple[Source, str]]:
    """The source that the options name, and the space of its vectors where that is known."""
    named = [*(options.vectors or ()), options.ids, options.texts]
    missing = [str(path) for path in named if path is not None and not path.is_file()]
    if missing:
        raise IndexBuildError(f"{', '.join(missing)} is missing: name files that are there")
    given = (options.vectors, options.texts, options.from_generation)
    if sum(one is not None for one in given) != 1:
        raise IndexBuildError("name --vectors, --texts with --encoder, or --from-generation")
    if options.from_generation is not None:
        yield followed(options.index, options.from_generation)
        return
    if options.texts is not None:
        if options.encoder is None:
            raise IndexBuildError("--texts need the encoder of documents: name it with --encoder")
        with run_encoder(options.encoder) as encoder:
            rows = count_lines(options.texts)
            yield (
                TextSource(options.texts, encoder.encode, encoder.dim, encoder.digest, rows),
                encoder.space,
            )
        return
    paths: list[Path] = options.vectors
    if paths[0].suffix == ".npy":
        if len(paths) > 1:
            raise IndexBuildError("--vectors takes one .npy file, or several Parquet files")
        yield NpySource(paths[0], options.ids), ""
    else:
        yield ParquetSource(tuple(paths), options.id_column, options.vector_column), ""


def followed(index: Path, name: str) -> tuple[FollowedGeneration, str]:
    """A generation of this index, with what was written to it."""
    directory = index / "generations" / name
    generation = read_generation(directory)
    states = written_states(index, name)
    source = FollowedGeneration(
        directory, tuple(shard_directory(states, shard) for shard in range(generation.shards))
    )
    return source, generation.space


def layout_of(options: argparse.Namespace, rows: int, dim: int) -> Layout:
    """The layout of the options, with FAISS' advice where they are silent. Raises IndexBuildError."""
    code_bytes = options.code_bytes or suggested_code_bytes(dim)
    if options.layout == "ivf-pq" and dim % code_bytes:
        raise IndexBuildError(
            f"{dim} components cannot be split evenly over {code_bytes} bytes: --code-bytes must divide "
            f"them, as {suggested_code_bytes(dim)} does"
        )
    is_ivf = options.layout.startswith("ivf")
    per_shard = max(1, rows // max(1, options.shards))
    lists = options.lists or (suggested_lists(per_shard) if is_ivf else 0)
    layout = Layout(
        kind=options.layout,
        lists=lists,
        code_bytes=code_bytes,
        rescore=options.rescore,
        on_disk=options.on_disk,
        effort=options.effort,
    )
    return layout.model_copy(update={"effort": layout.effort or suggested_effort(layout)})


def count_lines(path: Path) -> int:
    """Lines of a text file, compressed or not."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        return sum(1 for _ in lines)
