import numpy as np
import pytest

from serving.index import faiss_index
from serving.index.faiss_index import faiss
from serving.index.layout import Layout

DIM = 32
LAYOUTS = [
    Layout(kind="flat"),
    Layout(kind="hnsw", links=16),
    Layout(kind="hnsw-sq8", links=16),
    Layout(kind="ivf-flat", lists=4),
    Layout(kind="ivf-sq8", lists=4),
    Layout(kind="ivf-pq", lists=4, code_bytes=8),
    Layout(kind="ivf-rabitq", lists=4),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_bytes_per_row_are_those_that_faiss_writes(layout: Layout) -> None:
    rows = np.random.default_rng(0).normal(size=(4_000, DIM)).astype(np.float32)
    index = faiss_index.new_index(layout, DIM, "l2")
    faiss_index.train(index, rows)
    sizes = []
    for part in (rows[:2_000], rows[2_000:]):
        faiss_index.add(index, part)
        sizes.append(len(faiss.serialize_index(index)))
    assert (sizes[1] - sizes[0]) / 2_000 == pytest.approx(layout.row_bytes(DIM), rel=0.05)


def test_a_layout_is_written_as_people_say_it() -> None:
    layout = Layout(kind="ivf-pq", lists=16, code_bytes=8, rescore=4, on_disk=True)
    assert layout.words == "ivf-pq, 16 lists, 8-byte codes, rescoring 4 per result, on disk"
