"""Which shard a row lives on: a function of its id alone, the same for ever."""

import numpy as np
from numpy.typing import NDArray

from serving.index.metric import Ids

# The finalizer of SplitMix64 (Steele, Lea, Flood 2014): ids that follow one another scatter evenly.
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)


def shard_of(ids: Ids, shards: int) -> NDArray[np.int64]:
    """The shard [N] of each id [N], from 0 to shards - 1."""
    mixed = np.asarray(ids, dtype=np.int64).view(np.uint64).copy()
    mixed = (mixed ^ (mixed >> np.uint64(30))) * FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * SECOND
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(shards)).astype(np.int64)
