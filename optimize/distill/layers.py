"""Students that start from some of their teacher's layers."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from optimize.errors import TrainingError
from optimize.load import POOLING_CONFIG


def keep_layers(encoder: Any, layers: Sequence[int]) -> None:
    """Drop all other layers of a BERT-like encoder, in place; its token embeddings stay as they are.

    The token embeddings are frozen: few training texts would move the common words away from the rare.
    """
    stack = getattr(encoder, "encoder", None)
    found = getattr(stack, "layer", None)
    if stack is None or found is None:
        raise TrainingError(
            f"no student can be made of {type(encoder).__name__}: only BERT-like encoders "
            "(encoder.layer) are supported, drop the student variants"
        )
    if unknown := [layer for layer in layers if not -len(found) <= layer < len(found)]:
        raise TrainingError(
            f"distill.student.layers names {unknown}, but the teacher's layers are 0 to {len(found) - 1}"
        )
    if len({layer % len(found) for layer in layers}) < len(layers):
        raise TrainingError(
            f"distill.student.layers names a layer twice ({', '.join(map(str, layers))}): name it once"
        )
    stack.layer = torch.nn.ModuleList([found[layer] for layer in layers])
    encoder.config.num_hidden_layers = len(layers)
    for weight in encoder.embeddings.parameters():
        weight.requires_grad = False


def switch_off_dropout(module: torch.nn.Module) -> None:
    """A student imitates exact targets: noise only slows it down.

    Fused attention drops without a module of its own, by a probability that its layer keeps.
    """
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        for name, value in vars(part).items():
            if "dropout" in name and isinstance(value, float):
                setattr(part, name, 0.0)


def save_beside_tokenizer(encoder: Any, source: Path, destination: Path) -> None:
    """Write the student in the layout of its source: weights, configuration, tokenizer, pooling."""
    encoder.save_pretrained(destination, safe_serialization=True)
    for name in ("tokenizer.json", POOLING_CONFIG):
        if (source / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, destination / name)


def write_training_log(destination: Path, history: Sequence[Any], **facts: Any) -> None:
    """training.json: every validation, and facts on the data; no times, so that the same training gives
    the same files.
    """
    told = ("step", "train_loss", "validation_loss")
    content = {**facts, "history": [{k: getattr(p, k) for k in told} for p in history]}
    (destination / "training.json").write_text(json.dumps(content, indent=2) + "\n")
