import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.triton.text_encoder.batches import (
    RUN_OVERHEAD_TOKENS,
    RUNS_PER_WORKER,
    plan_batches,
)

LENGTHS = st.lists(st.integers(1, 256), min_size=1, max_size=200)
BUDGETS = st.integers(1, 4096)
WORKERS = st.integers(1, 8)


def plan(lengths: list[int], budget: int, workers: int = 1) -> list[list[int]]:
    """The lengths of the texts of each batch."""
    batches = plan_batches(np.array(lengths, dtype=np.int32), budget, workers)
    return [[lengths[index] for index in batch] for batch in batches]


def padded_tokens(batches: list[list[int]]) -> int:
    return sum(len(batch) * max(batch) for batch in batches)


def cost(batches: list[list[int]]) -> int:
    return padded_tokens(batches) + RUN_OVERHEAD_TOKENS * len(batches)


@given(LENGTHS, BUDGETS, WORKERS)
def test_every_text_is_in_one_batch(lengths: list[int], budget: int, workers: int):
    batches = plan_batches(np.array(lengths, dtype=np.int32), budget, workers)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(LENGTHS, BUDGETS, WORKERS)
def test_no_batch_exceeds_the_budget_but_a_single_text(
    lengths: list[int], budget: int, workers: int
):
    for batch in plan(lengths, budget, workers):
        assert padded_tokens([batch]) <= budget or len(batch) == 1


@given(LENGTHS, st.integers(2, 8))
def test_no_batch_exceeds_a_workers_share_but_a_single_text(lengths: list[int], workers: int):
    share = math.ceil(sum(lengths) / (RUNS_PER_WORKER * workers))
    for batch in plan(lengths, 10**6, workers):
        assert padded_tokens([batch]) <= share or len(batch) == 1


@given(LENGTHS, BUDGETS, WORKERS)
def test_the_largest_batch_comes_first(lengths: list[int], budget: int, workers: int):
    sizes = [padded_tokens([batch]) for batch in plan(lengths, budget, workers)]
    assert sizes == sorted(sizes, reverse=True)


@given(LENGTHS, BUDGETS, WORKERS)
def test_batches_never_cost_more_than_texts_one_by_one(
    lengths: list[int], budget: int, workers: int
):
    assert cost(plan(lengths, budget, workers)) <= cost([[length] for length in lengths])


@given(LENGTHS)
def test_batches_never_cost_more_than_one_that_holds_everything(lengths: list[int]):
    everything_fits = len(lengths) * max(lengths)
    assert cost(plan(lengths, everything_fits)) <= cost([lengths])


@given(st.permutations([8, 9, 10, 200, 210, 220]))
def test_short_and_long_texts_do_not_share_their_padding(lengths: list[int]):
    batches = plan(lengths, 4096)
    assert sorted(sorted(batch) for batch in batches) == [[8, 9, 10], [200, 210, 220]]
    assert padded_tokens(batches) < 0.6 * padded_tokens([lengths])


@pytest.mark.parametrize(("texts", "batches"), [(1, 1), (10, 1), (11, 2), (100, 10)])
def test_texts_of_one_length_fill_the_budget(texts: int, batches: int):
    assert len(plan([20] * texts, 200)) == batches


def test_a_saving_smaller_than_a_run_is_not_worth_a_run():
    assert len(plan([10] * (RUN_OVERHEAD_TOKENS - 1) + [11], 4096)) == 1
    assert len(plan([10] * (RUN_OVERHEAD_TOKENS + 1) + [11], 4096)) == 2
