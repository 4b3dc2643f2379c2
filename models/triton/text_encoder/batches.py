"""Which texts share one run of the model: hardly any padding, and work for every worker."""

import math

import numpy as np
import numpy.typing as npt

# What starting a run costs, in tokens. INT8 MiniLM-L6 on two AVX-512 cores: 1.0 ms a run, 48 µs a token.
RUN_OVERHEAD_TOKENS = 20
# Runs differ in size: with several for each worker, all workers finish at about the same time.
RUNS_PER_WORKER = 2


def plan_batches(
    token_counts: npt.NDArray[np.int32], token_budget: int, workers: int
) -> list[npt.NDArray[np.intp]]:
    """Group texts of similar length into runs of at most `token_budget` padded tokens.

    token_counts [N]; returns index arrays that together hold each of 0..N-1 once, the largest run
    first. Sorted by length, the texts are cut where the padding saved is worth another run, and so
    that there is a share for each of the `workers`. A text longer than the budget runs alone.
    """
    if len(token_counts) == 1:
        return [np.zeros(1, dtype=np.intp)]
    if workers > 1:
        share = math.ceil(int(token_counts.sum()) / (RUNS_PER_WORKER * workers))
        token_budget = min(token_budget, share)
    order = np.argsort(token_counts, kind="stable")
    lengths, counts = np.unique(token_counts, return_counts=True)
    ends = [0, *np.cumsum(counts).tolist()]
    batches: list[npt.NDArray[np.intp]] = []
    for first, last in cheapest_groups(lengths.tolist(), ends, token_budget):
        texts = order[ends[first] : ends[last]]
        batches += np.array_split(texts, runs_needed(len(texts), lengths[last - 1], token_budget))
    return sorted(batches, key=lambda batch: -len(batch) * int(token_counts[batch[-1]]))


def cheapest_groups(
    lengths: list[int], ends: list[int], token_budget: int
) -> list[tuple[int, int]]:
    """Neighbouring lengths that share their padding: (first, last) ranges of the least total cost.

    ends[i] texts are shorter than lengths[i]. Dynamic programming over the distinct lengths.
    """
    cost = [0.0]
    cut = [0]
    for last in range(1, len(ends)):
        longest = lengths[last - 1]
        options = []
        for first in range(last):
            texts = ends[last] - ends[first]
            runs = runs_needed(texts, longest, token_budget)
            options.append((cost[first] + texts * longest + runs * RUN_OVERHEAD_TOKENS, first))
        least, first = min(options)
        cost.append(least)
        cut.append(first)
    groups: list[tuple[int, int]] = []
    last = len(ends) - 1
    while last > 0:
        groups.append((cut[last], last))
        last = cut[last]
    return groups[::-1]


def runs_needed(texts: int, longest: int, token_budget: int) -> int:
    """How many runs keep `texts` padded to `longest` tokens within the budget."""
    return math.ceil(texts / max(1, token_budget // longest))
