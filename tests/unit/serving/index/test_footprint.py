from collections.abc import Callable
from pathlib import Path

import pytest

from serving.errors import CorruptIndexError, DoesNotFitError
from serving.index.footprint import PROCESS_BYTES, check_fits, footprint
from serving.index.generation import shard_directory
from serving.index.layout import Layout
from serving.index.metric import Vectors

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]

MIB = 2**20


def test_a_shard_takes_its_process_its_codes_and_its_ids() -> None:
    found = footprint(Layout(kind="flat"), dim=128, rows=1_000)
    assert found.process_bytes == PROCESS_BYTES
    assert found.index_bytes == 1_000 * 128 * 4
    assert found.ids_bytes == 1_000 * 9
    assert found.total_bytes == PROCESS_BYTES + 1_000 * (128 * 4 + 9)


def test_centroids_count_once_and_ids_beside_each_code() -> None:
    found = footprint(Layout(kind="ivf-sq8", lists=10), dim=128, rows=1_000)
    assert found.index_bytes == 1_000 * (128 + 8) + 10 * 128 * 4


def test_inverted_lists_on_disk_leave_centroids_and_ids() -> None:
    layout = Layout(kind="ivf-sq8", lists=10, on_disk=True)
    assert footprint(layout, dim=128, rows=1_000).index_bytes == 10 * 128 * 4


def test_faiss_computes_tables_for_product_codes_and_l2_distances() -> None:
    layout = Layout(kind="ivf-pq", lists=100, code_bytes=16)
    without = footprint(layout, 128, 1_000, "inner_product").index_bytes
    assert footprint(layout, 128, 1_000, "l2").index_bytes == without + 100 * 16 * 256 * 4


def test_tables_that_faiss_does_without_do_not_count() -> None:
    layout = Layout(kind="ivf-pq", lists=2**17 + 1, code_bytes=16)
    assert footprint(layout, 128, 1_000, "l2") == footprint(layout, 128, 1_000, "inner_product")


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_what_faiss_does_not_map_counts_even_when_it_is_to_stay_on_disk(kind: str) -> None:
    in_memory, on_disk = (
        footprint(Layout.model_validate({"kind": kind, "on_disk": there}), 128, 1_000)
        for there in (False, True)
    )
    assert on_disk == in_memory


def test_a_shard_over_its_budget_is_refused_with_how_much_and_before_it_is_read(
    make_generation: MakeGeneration, random_vectors: RandomVectors
) -> None:
    generation = make_generation(random_vectors(30_000, 16))
    for name in ("index.faiss", "ids.npy", "rows.npy"):
        (shard_directory(generation, 0) / name).unlink()  # whoever opens one fails otherwise
    needed = footprint(Layout(kind="flat"), 16, 30_000).total_bytes
    check_fits(generation, 0, needed)
    with pytest.raises(
        DoesNotFitError, match=r"shard 0 of g1 needs 42 MiB .* 32: it is 10 MiB over"
    ):
        check_fits(generation, 0, needed - 10 * MIB)


def test_a_shard_that_is_not_described_is_refused(
    make_generation: MakeGeneration, random_vectors: RandomVectors
) -> None:
    with pytest.raises(CorruptIndexError, match="is missing"):
        check_fits(make_generation(random_vectors(5)), 1, 2**40)
