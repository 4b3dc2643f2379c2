"""The teacher's vectors of the training texts, computed once for all students."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.triton.text_encoder.encoder import EncoderSettings, TextEncoder, open_session
from models.triton.text_encoder.tokens import open_tokenizer
from optimize.errors import TrainingError
from optimize.progress import progress

VECTORS = "vectors.npy"
CHUNK = 512
MIN_TEXTS = 100


def write_teacher_vectors(
    graph: Path,
    tokenizer: Path,
    texts: Sequence[str],
    max_tokens: int,
    settings: EncoderSettings,
    destination: Path,
) -> None:
    """The teacher step: vectors [N, dim] FP32 of the texts, each cut at `max_tokens`.

    Run from the exported graph, whose parity with the source is proved, because that is faster.
    """
    if len(texts) < MIN_TEXTS:
        raise TrainingError(
            f"{len(texts)} training texts: a student needs at least {MIN_TEXTS}, and learns well from "
            "20,000; name more in distill.texts"
        )
    cut = replace(settings, max_tokens=max_tokens, vectors="fp32")
    encoder = TextEncoder(open_session(graph, cut), open_tokenizer(tokenizer, max_tokens), cut)
    chunks = [list(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    bar = progress(chunks, f"teacher encoding {len(texts):,} texts")
    np.save(destination / VECTORS, np.concatenate([encoder.encode(chunk).outputs for chunk in bar]))
