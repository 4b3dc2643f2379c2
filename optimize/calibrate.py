"""Calibrate a classifier that was brought already trained: only its temperature is fitted."""

import json
from pathlib import Path

import numpy as np
import torch

from optimize.classifier import fit_temperature, open_classifier, save_temperature
from optimize.data.labelled import Labelled, refuse_other_classes
from optimize.fine_tune import AnyClassifier, logits_of
from optimize.load import copy_directory

MIN_TEXTS = 50
MAX_TEXTS = 2000  # more of them hardly move the temperature
UNCALIBRATED = 1.0


def write_calibrated(source: Path, data: Labelled, max_tokens: int, destination: Path) -> None:
    """The step: the source's own files, temperature.json and notes.json, which says what it was fitted on.

    Raises SourceError when the model is no classifier or knows other classes than the data.
    """
    copy_directory(source, destination)
    rows = np.random.default_rng(0).permutation(len(data.train_texts))[:MAX_TEXTS]
    if len(rows) < MIN_TEXTS:
        temperature = UNCALIBRATED
        words = f"not calibrated: {len(rows)} training texts are fewer than the {MIN_TEXTS} that it takes"
    else:
        temperature = temperature_of(source, data, rows, max_tokens)
        words = f"calibrated by a temperature of {temperature:.2f}, fitted on {len(rows):,} training texts"
    save_temperature(temperature, destination)
    (destination / "notes.json").write_text(json.dumps([f"probabilities {words}"]) + "\n")


def temperature_of(
    source: Path, data: Labelled, rows: np.ndarray[tuple[int], np.dtype[np.intp]], max_tokens: int
) -> float:
    """The temperature that fits some rows of the training texts."""
    model = open_classifier(source, max_tokens)
    assert isinstance(model.module, AnyClassifier)
    encodings = model.tokenizer.encode_batch_fast([data.train_texts[row] for row in rows])
    logits = logits_of(model.module, encodings, np.arange(len(encodings)))
    refuse_other_classes(logits.shape[1], data.label_names)
    return fit_temperature(logits, torch.from_numpy(data.train_labels[rows]))
