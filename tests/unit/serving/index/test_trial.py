from collections.abc import Iterator

import numpy as np
import pytest

from serving.index.layout import Layout
from serving.index.metric import Metric, Vectors
from serving.index.plan import candidates
from serving.index.trial import Sample, Step, Trial, choose, efforts, make_sample, try_layouts

ROWS, DIM = 4_000, 32


def clustered(count: int, seed: int, metric: Metric = "inner_product") -> Vectors:
    """Vectors around 100 centres, as those of texts are; the centres are the same for every seed."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(100, DIM))
    vectors = centres[chance.integers(0, 100, count)] + 1.3 * chance.normal(size=(count, DIM))
    if metric == "inner_product":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def no_long_timing() -> Iterator[None]:
    """One measurement of a query is enough for tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.index.trial.TIMED_S", 0.0)
        yield


@pytest.fixture(scope="module")
def sample() -> Sample:
    return make_sample(clustered(ROWS, 0), clustered(100, 1), 10, "inner_product")


def tried(layout: Layout, sample: Sample, target: float) -> Trial:
    [(_, trial)] = try_layouts([layout], sample, target, lambda *_: None)
    return trial


@pytest.mark.parametrize("layout", candidates(DIM), ids=lambda layout: layout.words)
def test_each_layout_finds_an_effort_that_reaches_the_recall(
    layout: Layout, sample: Sample
) -> None:
    trial = tried(layout, sample, 0.9)
    assert trial.reached
    assert trial.recall >= 0.9
    assert trial.queries_per_s > 0
    assert trial.p50_ms > 0
    assert trial.layout.kind == layout.kind
    assert trial.layout.on_disk == layout.on_disk
    assert 0 < trial.share <= 1
    assert bool(trial.layout.rescore) == bool(layout.rescore)


def test_it_takes_the_least_effort_of_a_ladder_that_reaches_the_recall(sample: Sample) -> None:
    trial = tried(Layout(kind="ivf-flat"), sample, 0.95)
    efforts_tried = [step.effort for step in trial.steps]
    recalls = [step.recall for step in trial.steps]
    assert efforts_tried == [*efforts(trial.layout)[: len(efforts_tried)]]
    assert len(recalls) > 2
    assert recalls == sorted(recalls)  # more lists, more is found
    assert recalls[-2] < 0.95 <= recalls[-1]
    assert trial.layout.effort == efforts_tried[-1] < trial.layout.lists


def test_all_lists_of_exact_codes_find_everything(sample: Sample) -> None:
    trial = tried(Layout(kind="ivf-flat"), sample, 1.0)
    assert trial.recall == 1.0


def test_codes_that_cannot_reach_the_recall_say_how_far_they_came(sample: Sample) -> None:
    trial = tried(Layout(kind="ivf-pq", code_bytes=2, rescore=0), sample, 0.99)
    assert not trial.reached
    assert trial.recall == max(step.recall for step in trial.steps) < 0.99


def test_rescoring_grows_only_as_far_as_the_recall_needs(sample: Sample) -> None:
    easy, hard = (
        tried(Layout(kind="ivf-rabitq", rescore=10), sample, target) for target in (0.3, 0.95)
    )
    assert easy.layout.rescore == 4
    assert hard.layout.rescore > 4
    assert hard.reached


def test_l2_distances_are_compared_as_such() -> None:
    rows, queries = clustered(ROWS, 0, "l2"), clustered(50, 1, "l2")
    sample = make_sample(rows, queries, 5, "l2")
    nearest = ((queries[0] - rows) ** 2).sum(axis=1).argsort()[:5]
    assert sample.exact[0].tolist() == nearest.tolist()
    assert tried(Layout(kind="ivf-sq8"), sample, 0.9).reached


def test_a_graph_is_tried_with_the_efforts_of_graphs_and_lists_with_those_of_lists() -> None:
    assert efforts(Layout(kind="flat")) == (0,)
    assert efforts(Layout(kind="hnsw"))[0] == 16
    assert efforts(Layout(kind="ivf-flat", lists=20)) == (1, 2, 3, 4, 6, 8, 12, 16, 20)
    assert efforts(Layout(kind="ivf-flat", lists=1)) == (1,)


def test_a_layout_on_disk_has_the_recall_of_the_same_codes_in_memory(sample: Sample) -> None:
    layouts = [Layout(kind="ivf-sq8"), Layout(kind="ivf-sq8", on_disk=True)]
    told: list[str] = []
    in_memory, on_disk = (
        trial
        for _, trial in try_layouts(layouts, sample, 0.9, lambda stage, *_: told.append(stage))
    )
    assert in_memory.steps == on_disk.steps
    assert on_disk.layout == in_memory.layout.model_copy(update={"on_disk": True})
    assert told == ["try ivf-sq8"] * 2 + ["try ivf-sq8 on disk"] * 2


def test_the_best_step_is_the_least_effort_with_the_most_recall() -> None:
    ladder = ((1, 0.5), (2, 0.8), (4, 0.8))
    steps = [Step(rescore=0, effort=effort, recall=recall) for effort, recall in ladder]
    assert [choose(steps, target).effort for target in (0.9, 0.7, 0.5)] == [2, 2, 1]
