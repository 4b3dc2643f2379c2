"""The adapter to the GPU side of FAISS: a copy of an index on a GPU, searched in place of that on the CPU.

No filter of ids is ever handed to it: an IDSelector is ignored there without a word, and what was to be left
out comes back (facebookresearch/faiss issue 3924). unfiltered.py does without.
"""

import logging
import os
import threading
from functools import partial
from typing import Any

# As nvidia-smi counts. Read when CUDA starts, with the first copy.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

from serving.errors import GpuError
from serving.index import faiss_index
from serving.index.faiss_index import faiss
from serving.index.generation import Generation
from serving.index.gpu import NO_SUPPORT, GpuUse, check_fits, clone_bytes
from serving.index.gpu_devices import free_by_number
from serving.index.metric import Ids, Vectors
from serving.index.unfiltered import MOST_RESULTS, Clone, clone_or_none

log = logging.getLogger(__name__)


def cloner(use: GpuUse, generation: Generation) -> Clone:
    """What makes the clones of a shard's indexes, one segment after the other; see clone.

    Of a GPU that is not required, None is the answer to what clone raises.
    """
    required = partial(clone, use, generation)
    return required if use.required else partial(clone_or_none, required)


def clone(use: GpuUse, generation: Generation, index: Any) -> "GpuClone | None":
    """A copy of an index on a GPU; None of one without a row.

    Raises DoesNotFitError before anything is copied, GpuError when FAISS cannot copy it.
    """
    if not index.ntotal:
        return None
    if not hasattr(faiss, "StandardGpuResources"):  # a node's and a shard's FAISS may differ
        raise GpuError(NO_SUPPORT)
    free = free_by_number().get(use.device, 0)
    needed = clone_bytes(generation, index.ntotal, use)
    check_fits("the rows of a shard", needed, use.device, free)
    try:
        return GpuClone(use, generation, index)
    except RuntimeError as error:
        raise GpuError(
            f"FAISS cannot copy an index to GPU {use.device} ({error}): free it, or leave --gpu out"
        ) from error


class GpuClone:
    """A Searcher. One search at a time: FAISS' GPU resources serve one thread, readers too."""

    def __init__(self, use: GpuUse, generation: Generation, index: Any) -> None:
        """Copy an index that stays as it is. Raises RuntimeError with FAISS' words."""
        self.device = use.device
        self._layout = generation.layout
        self._lock = threading.Lock()
        # Its own: one that an older clone shares could not be searched meanwhile.
        self._resources = faiss.StandardGpuResources()
        self._resources.setTempMemory(use.reserve_bytes)
        self._resources.setPinnedMemory(0)  # of the host, 256 MiB for queries of 256 MiB and more
        options = faiss.GpuClonerOptions()
        options.useFloat16 = use.precision == "fp16"
        options.use_cuvs = False  # another implementation, which takes other layouts and memory
        converts = generation.layout.kind == "flat" and options.useFloat16
        source = empty(generation) if converts else index
        self._index = faiss.index_cpu_to_gpu(self._resources, use.device, source, options)
        if converts:  # part by part, while a copy puts four times as much on the GPU to convert it
            self._index.add(rows_of(index))

    def search(self, queries: Vectors, k: int, effort: int) -> tuple[Ids, Vectors] | None:
        """Positions [N, k], MISSING where there are fewer, and scores [N, k]; None: the GPU cannot."""
        layout = self._layout
        if k > MOST_RESULTS or min(effort or layout.effort, layout.lists) > MOST_RESULTS:
            return None
        try:
            with self._lock:
                return faiss_index.search(self._index, layout, queries, k, effort, None)
        except RuntimeError as error:  # such as no memory for what the reserve has no room for
            log.warning("GPU %d could not search, the CPU does: %s", self.device, error)
            return None


def empty(generation: Generation) -> Any:
    """A flat index without rows."""
    return faiss_index.new_index(generation.layout, generation.dim, generation.metric)


def rows_of(index: Any) -> Vectors:
    """The rows [n, dim] of a flat index, where they lie."""
    rows: Vectors = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return rows.reshape(index.ntotal, index.d)
