"""A classifier on disk: the encoder as a Hugging Face directory, and beside it the head, the names of the
classes and the temperature; or a Hugging Face classifier as it was brought, and the temperature.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from optimize.distill.layers import save_beside_tokenizer
from optimize.errors import SourceError
from optimize.load import Attention, SourceModel, open_transformer, read_pooling
from optimize.modules import Classifier, HeadedClassifier

HEAD, LABELS, TEMPERATURE = "head.safetensors", "labels.json", "temperature.json"
LOWEST, HIGHEST = 0.2, 20.0  # temperature: with every label guessed right, none is low enough


def save_classifier(
    model: Classifier, labels: Sequence[str], source: Path, destination: Path
) -> None:
    """Write all of it to `destination`; tokenizer and pooling come from `source`."""
    save_beside_tokenizer(model.encoder, source, destination)
    save_file(dict(model.head.state_dict()), destination / HEAD)
    (destination / LABELS).write_text(json.dumps(list(labels), indent=2) + "\n")
    save_temperature(model.temperature, destination)


def save_temperature(temperature: float, destination: Path) -> None:
    """Write what logits are divided by."""
    (destination / TEMPERATURE).write_text(json.dumps({"temperature": temperature}) + "\n")


def read_temperature(directory: Path) -> float:
    """What logits are divided by: 1 where nothing was calibrated."""
    path = directory / TEMPERATURE
    return float(json.loads(path.read_text())["temperature"]) if path.is_file() else 1.0


def open_classifier(directory: Path, max_tokens: int, attention: Attention = "sdpa") -> SourceModel:
    """Open it for probabilities [N, classes]: ours, or a Hugging Face classifier as it was brought.

    Raises SourceError when a part is missing or damaged.
    """
    if not (directory / HEAD).is_file():
        return open_headed(directory, max_tokens, attention)
    tokenizer, encoder = open_transformer(directory, max_tokens, "embed", attention)
    labels = json.loads((directory / LABELS).read_text())
    temperature = read_temperature(directory)
    model = Classifier(encoder, read_pooling(directory), len(labels), temperature)
    model.head.load_state_dict(load_file(directory / HEAD))
    return SourceModel(model.eval(), tokenizer)


def open_headed(directory: Path, max_tokens: int, attention: Attention) -> SourceModel:
    """A Hugging Face directory that was saved with a head. Raises SourceError when it has none to use."""
    config = json.loads((directory / "config.json").read_text())
    if not is_classifier(config):
        raise SourceError(
            "this model has no classification head yet: add fine_tune to the recipe, so that one is "
            "trained on the labelled data"
        )
    tokenizer, transformer = open_transformer(directory, max_tokens, "classify", attention)
    several = transformer.config.problem_type == "multi_label_classification"
    if several or transformer.config.num_labels < 2:
        kind = "gives several labels a text" if several else "gives one number, not classes"
        raise SourceError(
            f"this model {kind}, classify needs exactly one label of two or more: train its encoder anew "
            "with fine_tune"
        )
    model = HeadedClassifier(transformer, read_temperature(directory))
    return SourceModel(model.eval(), tokenizer)


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Whether a Hugging Face model was saved with a classification head."""
    return any("SequenceClassification" in name for name in config.get("architectures") or [])


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature that makes the labels [N] most likely under softmax(logits [N, C] / temperature),
    between LOWEST and HIGHEST.

    Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    log_temperature = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits / log_temperature.exp(), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(log_temperature.detach().exp().clamp(LOWEST, HIGHEST))
