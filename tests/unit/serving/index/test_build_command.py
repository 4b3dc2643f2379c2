import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.errors import IndexBuildError, PlacementError
from serving.index.__main__ import parse_arguments
from serving.index.build_command import build_generation, count_lines
from serving.index.generation import Generation
from serving.index.layout import suggested_code_bytes, suggested_lists
from serving.index.metric import Vectors

RandomVectors = Callable[..., Vectors]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Generation]:
    """Carries out `build tmp_path/demo --name g1` with more options."""

    def build(*options: object) -> Generation:
        arguments = ["build", str(tmp_path / "demo"), "--name", "g1", *map(str, options)]
        return build_generation(parse_arguments(arguments), lambda *_: None)

    return build


@pytest.fixture
def vectors(tmp_path: Path, random_vectors: RandomVectors) -> Path:
    path = tmp_path / "vectors.npy"
    np.save(path, random_vectors(2_000))
    return path


def test_options_say_what_is_built(build: Callable[..., Generation], vectors: Path) -> None:
    built = build(
        *("--vectors", vectors, "--layout", "ivf-rabitq", "--lists", 8, "--effort", 3),
        *("--rescore", 4, "--on-disk", "--metric", "l2", "--shards", 2, "--space", "encoder"),
    )
    assert (built.index, built.name, built.rows, built.shards) == ("demo", "g1", 2_000, 2)
    assert (built.dim, built.metric, built.space) == (8, "l2", "encoder")
    layout = built.layout
    assert (layout.kind, layout.lists, layout.effort) == ("ivf-rabitq", 8, 3)
    assert (layout.rescore, layout.on_disk) == (4, True)


def test_lists_and_effort_follow_from_the_rows_of_a_shard(
    build: Callable[..., Generation], vectors: Path
) -> None:
    layout = build("--vectors", vectors, "--shards", 2).layout
    assert (layout.kind, layout.lists, layout.effort) == ("ivf-sq8", 25, 1)


def test_product_codes_have_a_byte_for_eight_components(
    build: Callable[..., Generation], vectors: Path
) -> None:
    assert build("--vectors", vectors, "--layout", "ivf-pq").layout.code_bytes == 1


@pytest.mark.parametrize(("dim", "code_bytes"), [(384, 48), (100, 10), (8, 1), (7, 1), (1, 1)])
def test_suggested_code_bytes_divide_the_components(dim: int, code_bytes: int) -> None:
    assert suggested_code_bytes(dim) == code_bytes


@pytest.mark.parametrize(
    ("rows", "lists"), [(0, 1), (38, 1), (78, 2), (10_000, 256), (1_000_000, 4_000)]
)
def test_suggested_lists_grow_with_the_root_of_the_rows_and_can_be_trained(
    rows: int, lists: int
) -> None:
    assert suggested_lists(rows) == lists


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "name --vectors"),
        (("--vectors", "v.npy", "--texts", "v.npy"), "name --vectors"),
        (("--texts", "v.npy"), "name it with --encoder"),
        (
            ("--vectors", "v.npy", "--layout", "ivf-pq", "--code-bytes", "3"),
            "over 3 bytes: --code-bytes must divide them, as 1 does",
        ),
        (("--vectors", "no.npy", "v.npy"), r"no\.npy is missing: name files that are there"),
        (("--vectors", "v.npy", "--ids", "no.npy"), r"no\.npy is missing"),
        (("--texts", "no.jsonl", "--encoder", "."), r"no\.jsonl is missing"),
        (("--vectors", "v.npy", "v.npy"), "one .npy file, or several Parquet files"),
        (("--vectors", "v.npy", "--shards", "0"), "name 1 or more"),
        (("--vectors", "empty.npy"), "there are no vectors"),
    ],
)
def test_options_that_name_nothing_to_build_are_refused(
    build: Callable[..., Generation],
    vectors: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(vectors.parent)
    vectors.rename("v.npy")
    np.save("empty.npy", np.empty((0, 8), np.float32))
    with pytest.raises(IndexBuildError, match=words):
        build(*options)


@pytest.mark.parametrize("name", ["..", ".g1", "a-b", "a/b"])
def test_a_generation_with_a_name_that_cannot_be_served_is_refused(
    tmp_path: Path, vectors: Path, name: str
) -> None:
    arguments = ["build", str(tmp_path / "demo"), "--name", name, "--vectors", str(vectors)]
    with pytest.raises(PlacementError, match=r"the generation .* cannot be used"):
        build_generation(parse_arguments(arguments), lambda *_: None)
    assert not (tmp_path / "demo").exists()


def test_lines_are_counted_compressed_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"1\n2\n3")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"1\n2\n"))
    assert count_lines(tmp_path / "a.jsonl") == 3
    assert count_lines(tmp_path / "a.jsonl.gz") == 2
