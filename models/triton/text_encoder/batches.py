"""Which texts share one run of the model, so that padding is hardly computed."""

import numpy as np
import numpy.typing as npt


def plan_batches(
    token_counts: npt.NDArray[np.int32], token_budget: int
) -> list[npt.NDArray[np.intp]]:
    """Group texts of similar length into batches of at most `token_budget` padded tokens.

    token_counts [N]; returns index arrays that together hold each of 0..N-1 once. A text longer
    than the budget runs alone. Sorted by length, a batch pads only to its own longest text.
    """
    order = np.argsort(token_counts, kind="stable")
    batches: list[npt.NDArray[np.intp]] = []
    start = 0
    for end in range(1, len(order) + 1):
        last = end == len(order)
        if last or (end + 1 - start) * token_counts[order[end]] > token_budget:
            batches.append(order[start:end])
            start = end
    return batches
