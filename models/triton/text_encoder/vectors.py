"""Vectors in fewer bits, as they are sent and stored."""

from typing import Any

import numpy as np
import numpy.typing as npt

INT8_SCALE = 127.0


def compress(vectors: npt.NDArray[np.float32], kind: str) -> npt.NDArray[Any]:
    """Unit vectors [N, D] as fp32, fp16, int8 (components times 127) or binary (sign bits, D / 8 bytes).

    Raises ValueError for another kind.
    """
    match kind:
        case "fp32":
            return vectors
        case "fp16":
            return np.asarray(vectors, dtype=np.float16)
        case "int8":
            return np.asarray(np.round(vectors * INT8_SCALE), dtype=np.int8)
        case "binary":
            return np.asarray(np.packbits(vectors > 0, axis=1))
        case _:
            raise ValueError(f"vectors cannot be sent as {kind!r}: use fp32, fp16, int8 or binary")
