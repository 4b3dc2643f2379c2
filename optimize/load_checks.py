"""What is refused of a source before anything is made of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer

from optimize.errors import SourceError

# PyTorch, its copy while it is exported, ONNX Runtime's and what both allocate beside the weights.
MEMORY_PER_WEIGHT_BYTE = 4

LEAST_KNOWN = 0.5  # of a model's tokens: tables are padded a little, never to twice their size
# The algorithm behind the tokenizers that config.json may name.
KINDS = {
    "Bert": "WordPiece",
    "DistilBert": "WordPiece",
    "Electra": "WordPiece",
    "MPNet": "WordPiece",
    "Roberta": "BPE",
    "XLMRoberta": "Unigram",
    "Camembert": "Unigram",
}


def refuse_damaged_weights(transformer: torch.nn.Module) -> None:
    """Raise SourceError when a weight is NaN or infinite: every answer would be."""
    damaged = [n for n, w in transformer.state_dict().items() if not torch.isfinite(w).all()]
    if damaged:
        raise SourceError(
            f"{len(damaged)} weights hold NaN or infinity (first: {damaged[0]}): the training of this "
            "model failed or the file is damaged, use another checkpoint"
        )


def refuse_other_tokenizer(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Raise SourceError when a tokenizer is not that of the model whose config.json this is.

    Two tokenizers of the same size, kind and special tokens cannot be told apart by it.
    """
    differences = [
        *different_size(tokenizer.get_vocab_size(), int(config["vocab_size"])),
        *different_kind(type(tokenizer.model).__name__, str(config.get("tokenizer_class"))),
        *different_ends(tokenizer.encode("").ids, config),
    ]
    if differences:
        raise SourceError(
            f"{'; '.join(differences)}: it is another model's, take tokenizer.json from where the weights "
            "are from"
        )


def different_size(known: int, rows: int) -> list[str]:
    """How the tokens that a tokenizer knows disagree with the model's embeddings, in words."""
    if known > rows:
        return [f"the tokenizer has {known} tokens but the model only {rows}"]
    if known < LEAST_KNOWN * rows:
        return [f"the tokenizer has only {known} tokens and the model {rows}"]
    return []


def different_kind(kind: str, named: str) -> list[str]:
    """How a tokenizer's algorithm disagrees with the class that config.json names, in words."""
    expected = KINDS.get(named.removesuffix("Fast").removesuffix("Tokenizer"), kind)
    return [] if kind == expected else [f"the tokenizer is {kind}, config.json names a {named}"]


def different_ends(around: Sequence[int], config: Mapping[str, Any]) -> list[str]:
    """How the ids that a tokenizer puts around a text disagree with those in config.json, in words."""
    first, last = (
        next((config[name] for name in names if config.get(name) is not None), None)
        for names in (("cls_token_id", "bos_token_id"), ("sep_token_id", "eos_token_id"))
    )
    if first is None or last is None or len(around) < 2 or first == around[0] or last == around[-1]:
        return []
    return [
        f"the tokenizer puts the ids {around[0]} and {around[-1]} around a text, config.json says {first} "
        f"and {last}"
    ]


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
