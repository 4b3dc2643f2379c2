"""How a shard stores its vectors, and what that costs in bytes, from first principles.

FAISS' own structures are what is counted: see the "Memory" column of its wiki page "Faiss indexes", and
IndexIVF (8 bytes of id beside each code), HNSW (2 M links of 4 bytes on the lowest level).
"""

import math
from typing import Literal

from models.manifest import Record
from serving.index.metric import Metric

Kind = Literal["flat", "hnsw", "hnsw-sq8", "ivf-flat", "ivf-sq8", "ivf-pq", "ivf-rabitq"]

RABITQ_FACTORS_BYTES = 8  # two floats beside the bits of each code
ID_BYTES = 8
FLOAT_BYTES = 4
LINK_BYTES = 4
MAX_TABLE_BYTES = 2**31
EF_SEARCH = 64


class Layout(Record):
    """One way to store vectors."""

    kind: Kind
    """What FAISS builds."""
    lists: int = 0
    """Inverted lists of an IVF index."""
    links: int = 32
    """Links of a node in an HNSW graph (M)."""
    code_bytes: int = 48
    """Bytes of a code of `ivf-pq`."""
    rescore: int = 0
    """Candidates per result that are scored again with their exact rows; 0: none are."""
    on_disk: bool = False
    """Whether codes stay on disk and are read through the page cache."""
    effort: int = 0
    """Lists visited (nprobe) or candidates kept (efSearch) by a search that does not say."""

    @property
    def is_ivf(self) -> bool:
        """Whether it has inverted lists."""
        return self.kind.startswith("ivf")

    @property
    def is_hnsw(self) -> bool:
        """Whether it is a graph."""
        return self.kind.startswith("hnsw")

    @property
    def words(self) -> str:
        """The layout as people write it."""
        parts: list[str] = [self.kind]
        if self.is_ivf:
            parts.append(f"{self.lists} lists")
        if self.is_hnsw:
            parts.append(f"{self.links} links")
        if self.kind == "ivf-pq":
            parts.append(f"{self.code_bytes}-byte codes")
        if self.rescore:
            parts.append(f"rescoring {self.rescore} per result")
        if self.on_disk:
            parts.append("on disk")
        return ", ".join(parts)

    def factory(self) -> str:
        """FAISS' index_factory string."""
        match self.kind:
            case "flat":
                return "Flat"
            case "hnsw":
                return f"HNSW{self.links},Flat"
            case "hnsw-sq8":
                return f"HNSW{self.links},SQ8"
            case "ivf-flat":
                return f"IVF{self.lists},Flat"
            case "ivf-sq8":
                return f"IVF{self.lists},SQ8"
            case "ivf-pq":
                # np: without polysemous training, which is slow and which nothing here makes use of
                return f"IVF{self.lists},PQ{self.code_bytes}x8np"
            case "ivf-rabitq":
                return f"IVF{self.lists},RaBitQ"

    def code_size_bytes(self, dim: int) -> int:
        """Bytes of one stored vector, without what surrounds it."""
        match self.kind:
            case "flat" | "hnsw" | "ivf-flat":
                return FLOAT_BYTES * dim
            case "hnsw-sq8" | "ivf-sq8":
                return dim
            case "ivf-pq":
                return self.code_bytes
            case "ivf-rabitq":
                return (dim + 7) // 8 + RABITQ_FACTORS_BYTES

    def row_bytes(self, dim: int) -> float:
        """Bytes per row of the index: the code, and the id or the links beside it."""
        beside = 0.0
        if self.is_ivf:
            beside = ID_BYTES
        if self.is_hnsw:
            # Level 0 holds 2 M links; a node is on level l with probability M^-l, with M links there.
            upper = self.links / (self.links - 1)
            beside = LINK_BYTES * self.links * (2 + upper - 1) + ID_BYTES + LINK_BYTES
        return self.code_size_bytes(dim) + beside

    def fixed_bytes(self, dim: int) -> int:
        """Bytes that do not grow with the rows: centroids, quantizers."""
        centroids = self.lists * dim * FLOAT_BYTES if self.is_ivf else 0
        codebooks = 256 * dim * FLOAT_BYTES if self.kind == "ivf-pq" else 0
        return centroids + codebooks

    def table_bytes(self, metric: Metric) -> int:
        """Bytes of the tables that FAISS computes ahead when it reads an `ivf-pq` index of L2 distances.

        Source: initialize_IVFPQ_precomputed_table, which does without tables of more than 2 GiB.
        """
        if self.kind != "ivf-pq" or metric == "inner_product":
            return 0
        size = self.lists * self.code_bytes * 256 * FLOAT_BYTES
        return size if size <= MAX_TABLE_BYTES else 0


def suggested_lists(rows: int) -> int:
    """4 sqrt(rows), from the guidelines of FAISS' wiki, but no more than 39 training rows allow."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // 39))


def suggested_effort(layout: Layout) -> int:
    """Lists visited, or candidates kept by a graph, by searches of a layout that nobody chose it for."""
    if layout.is_ivf:
        return max(1, layout.lists // 16)
    return EF_SEARCH if layout.is_hnsw else 0


def suggested_code_bytes(dim: int) -> int:
    """Bytes of a product code: one for eight components or a few more, as many as divide them evenly."""
    return max(size for size in range(1, max(1, dim // 8) + 1) if dim % size == 0)
