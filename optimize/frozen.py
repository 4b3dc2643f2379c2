"""What a classifier has to beat: answers that need no fine-tuning, on the same held-out texts."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from optimize.data.labelled import Labelled
from optimize.load import open_source
from optimize.recipe import Recipe
from optimize.steps import Step, Workspace
from optimize.tasks.embed import encode_all
from optimize.tools import tool_versions

FILE_NAME = "frozen.json"


def measure_frozen(
    recipe: Recipe, workspace: Workspace, source: Step, data: Any
) -> dict[str, float]:
    """Accuracy by name; nothing where the recipe trains no classifier."""
    if recipe.fine_tune is None:
        return {}
    inputs = {"source": source.digest, "data": data.digests, "tools": tool_versions()}
    make = partial(write_frozen, source.directory, recipe.max_tokens, data)
    found: dict[str, float] = workspace.step("frozen", inputs, make).read_json(FILE_NAME)
    return found


def write_frozen(source: Path, max_tokens: int, data: Labelled, destination: Path) -> None:
    """The step: logistic regression on the source's vectors as they are, and on TF-IDF of words."""
    encode = open_source(source, max_tokens).encode
    vectors = LogisticRegression(max_iter=2000, C=10).fit(
        encode_all(encode, data.train_texts, "texts"), data.train_labels
    )
    words = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(max_iter=2000, C=10),
    ).fit(data.train_texts, data.train_labels)
    found = {
        "frozen vectors + logistic regression": accuracy(
            vectors.predict(encode_all(encode, data.texts, "texts")), data.labels
        ),
        "TF-IDF + logistic regression": accuracy(words.predict(data.texts), data.labels),
    }
    (destination / FILE_NAME).write_text(json.dumps(found, indent=2) + "\n")


def accuracy(guesses: Sequence[int], labels: npt.NDArray[np.int64]) -> float:
    """The share of right guesses."""
    return float((np.asarray(guesses) == labels).mean())
