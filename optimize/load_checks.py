"""What is refused of a source before anything is made of it."""

from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
from tokenizers import Tokenizer

from optimize.errors import SourceError

# PyTorch, its copy while it is exported, ONNX Runtime's and what both allocate beside the weights.
MEMORY_PER_WEIGHT_BYTE = 4


def refuse_damaged_weights(transformer: torch.nn.Module) -> None:
    """Raise SourceError when a weight is NaN or infinite: every answer would be."""
    damaged = [n for n, w in transformer.state_dict().items() if not torch.isfinite(w).all()]
    if damaged:
        raise SourceError(
            f"{len(damaged)} weights hold NaN or infinity (first: {damaged[0]}): the training of this "
            "model failed or the file is damaged, use another checkpoint"
        )


def refuse_other_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raise SourceError when the tokenizer knows ids for which the model has no embedding."""
    if tokenizer.get_vocab_size() > vocab_size:
        raise SourceError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens but the model only {vocab_size}: "
            "it is another model's, take tokenizer.json from where the weights are from"
        )


def refuse_random_weights(missing: Sequence[str]) -> None:
    """Raise SourceError when weights are missing that transformers would make up at random.

    A pooler may be missing: sentence encoders are often saved without it and no output depends on it.
    """
    needed = sorted(name for name in missing if not name.startswith("pooler."))
    if needed:
        raise SourceError(
            f"model.safetensors lacks {len(needed)} tensors that config.json asks for (first: {needed[0]}): "
            "use the two files of one model"
        )


def refuse_too_large(*weights: Path, available_bytes: int | None = None) -> None:
    """Raise SourceError when a model cannot be worked on in the memory that this machine has left."""
    if available_bytes is None:
        available_bytes = psutil.virtual_memory().available
    size_bytes = sum(path.stat().st_size for path in weights)
    needed_bytes = size_bytes * MEMORY_PER_WEIGHT_BYTE
    if needed_bytes > available_bytes:
        raise SourceError(
            f"{weights[0].name} is {size_bytes / 2**30:.1f} GiB: optimizing it takes about "
            f"{needed_bytes / 2**30:.1f} GiB of memory and {available_bytes / 2**30:.1f} GiB are free; use "
            "a larger machine or a smaller model"
        )
