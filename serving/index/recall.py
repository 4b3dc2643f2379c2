"""Live recall: now and then a query is answered again, exactly, in the background, and compared."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.index.faiss_index import Bitmap, set_threads
from serving.index.merge import Hits, merge, no_hits
from serving.index.metric import NO_ID, Ids, Vectors, best_first, exact_scores
from serving.index.segment import Segment
from serving.index.writer import CHUNK_ROWS

K = 10
SHARE = 0.001  # of the queries
LEAST_PAUSE_S = 10.0  # between two comparisons: each reads every row of the shard
DUTY = 0.1  # of one core while it compares
SAMPLES = 200


@dataclass(frozen=True)
class View:
    """What a comparison looks at: a segment and its live rows (a bit each, None: all) do not change."""

    segment: Segment
    members: Bitmap | None


class RecallSampler:
    """Recall@10 of a segment's index against its exact rows, over the last comparisons."""

    def __init__(self, share: float = SHARE, pause_s: float = LEAST_PAUSE_S) -> None:
        self._share = share
        self._pause_s = pause_s
        self._next_s = 0.0
        self._thread: threading.Thread | None = None
        self._recalls: deque[float] = deque(maxlen=SAMPLES)
        self._chance = random.Random()

    @property
    def recall(self) -> float | None:
        """Its mean; None before the first comparison."""
        recalls = list(self._recalls)
        return sum(recalls) / len(recalls) if recalls else None

    @property
    def samples(self) -> int:
        """How many comparisons the mean is of."""
        return len(self._recalls)

    def offer(self, query: Vectors, effort: int, view: Callable[[], View]) -> None:
        """Perhaps compare how this query [dim] was answered, in a thread of its own."""
        now_s = time.monotonic()
        busy = self._thread is not None and self._thread.is_alive()
        if busy or now_s < self._next_s or self._chance.random() >= self._share:
            return
        self._next_s = now_s + self._pause_s
        self._thread = threading.Thread(
            target=self._compare, args=(query.copy(), effort, view()), daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when no comparison is under way."""
        if self._thread is not None:
            self._thread.join()

    def _compare(self, query: Vectors, effort: int, view: View) -> None:
        set_threads(1)  # of this thread: the cores are for queries
        exact = exact_search(query, K, view, DUTY)
        found = view.segment.search(query[None], K, effort, view.members)
        recall = recall_at_k(found.ids[0], exact.ids[0])
        if recall is not None:
            self._recalls.append(recall)


def recall_at_k(found: Ids, exact: Ids) -> float | None:
    """The share of the exact results [k] that were found [k]; None when there are none."""
    wanted = exact[exact != NO_ID]
    return float(np.isin(wanted, found).mean()) if len(wanted) else None


def exact_search(query: Vectors, k: int, view: View, duty: float = 1.0) -> Hits:
    """The best k live rows for one query [dim], by reading all of them; `duty` is its share of the time."""
    segment, metric = view.segment, view.segment.generation.metric
    live = live_rows(view)
    best = no_hits(1, k, metric)
    for start in range(0, len(segment), CHUNK_ROWS):
        began_s = time.monotonic()
        at = live[start : start + CHUNK_ROWS].nonzero()[0] + start
        rows = segment.rows[start : start + CHUNK_ROWS][at - start][None]  # [1, m, dim]
        ids = segment.ids[at][None]
        scores = exact_scores(query[None], rows, metric).astype(np.float32)
        order = best_first(ids, scores, metric)[:, :k]
        part = Hits(
            np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )
        best = merge([best, part], k, metric)
        time.sleep((time.monotonic() - began_s) * (1 / duty - 1))
    return best


def live_rows(view: View) -> NDArray[np.bool_]:
    """Whether each row [n] of the segment is live."""
    if view.members is None:
        return np.ones(len(view.segment), dtype=bool)
    bits = np.unpackbits(view.members, count=len(view.segment), bitorder="little")
    return bits.astype(bool)
