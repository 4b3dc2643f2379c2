import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.index import faiss_index
from serving.index.layout import Layout
from serving.index.memory import Memory, give_back, memory_of, node_bytes
from serving.index.metric import Vectors

MIB = 2**20
RandomVectors = Callable[..., Vectors]

FILL = """
import sys
from pathlib import Path
import numpy as np
from serving.index import faiss_index
from serving.index.memory import memory_of
faiss_index.set_threads(1)
index = faiss_index.load(Path(sys.argv[1]))
rows = np.load(sys.argv[2], mmap_mode="r")
faiss_index.fill(index, rows[:0])  # what FAISS keeps for itself from its first call on
before = memory_of().held_bytes
faiss_index.fill(index, rows)
print(memory_of().held_bytes - before)
"""


def test_what_a_process_allocates_is_held_and_what_it_maps_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mapped").write_bytes(bytes(8 * MIB))
    before = memory_of()
    held = mmap.mmap(-1, 8 * MIB, mmap.MAP_PRIVATE)  # what malloc kept of other tests is not it
    np.frombuffer(held, dtype=np.uint8)[:] = 1
    mapped = np.memmap(tmp_path / "mapped", dtype=np.uint8, mode="r")
    assert mapped.sum() == 0
    found = memory_of()
    assert found.held_bytes - before.held_bytes == pytest.approx(len(held), rel=0.2)
    assert found.files[str(tmp_path / "mapped")] == 8 * MIB


def test_a_node_counts_code_and_shared_memory_once_and_the_files_of_its_index_not() -> None:
    server = Memory(100, 30, {"/lib/faiss.so": 50, "/data/index/rows.npy": 7_000})
    shard = Memory(200, 10, {"/lib/faiss.so": 60, "/lib/numpy.so": 5})
    assert node_bytes([server, shard], dropped=Path("/data")) == 100 + 200 + 30 + 60 + 5


def test_a_node_without_processes_holds_nothing() -> None:
    assert node_bytes([], dropped=Path("/data")) == 0


def test_freed_memory_below_something_in_use_is_given_back() -> None:
    parts = [np.ones(100_000, dtype=np.uint8) for _ in range(300)]  # too small to be mapped
    last = parts.pop()
    before = memory_of().held_bytes
    parts.clear()
    give_back()
    assert before - memory_of().held_bytes > 20 * MIB
    assert last.all()


@pytest.mark.parametrize(
    "kind", ["flat", "hnsw-sq8", "ivf-flat", "ivf-sq8", "ivf-pq", "ivf-rabitq"]
)
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_an_index_filled_at_once_finds_what_one_that_grew_finds(
    kind: str, metric: str, random_vectors: RandomVectors, tmp_path: Path
) -> None:
    rows = random_vectors(20_000, 16)
    layout = Layout.model_validate({"kind": kind, "lists": 16, "code_bytes": 4, "effort": 16})
    grown = faiss_index.new_index(layout, 16, metric)  # type: ignore[arg-type]
    if faiss_index.training_size(layout):
        faiss_index.train(grown, rows)
    faiss_index.save(grown, tmp_path / "trained")
    filled = faiss_index.load(tmp_path / "trained")
    faiss_index.add(grown, rows)
    faiss_index.fill(filled, rows)
    (positions, scores), (others, other_scores) = (
        faiss_index.search(index, layout, rows[:50], 5, 0, None) for index in (grown, filled)
    )
    assert positions.tolist() == others.tolist()
    assert scores.tolist() == other_scores.tolist()


def test_lists_are_filled_without_room_to_grow(
    random_vectors: RandomVectors, tmp_path: Path
) -> None:
    rows, layout = random_vectors(65_000, 64), Layout(kind="ivf-flat", lists=16)
    index = faiss_index.new_index(layout, 64, "inner_product")
    faiss_index.train(index, rows[:2_000])
    faiss_index.save(index, tmp_path / "trained")
    np.save(tmp_path / "rows.npy", rows)
    command = [sys.executable, "-c", FILL, str(tmp_path / "trained"), str(tmp_path / "rows.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.25 * layout.row_bytes(64) * len(rows)
