"""What each task reads, predicts and measures: the visible table of tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import Task
from optimize.data.labelled import read_labelled
from optimize.data.retrieval import read_retrieval
from optimize.quality import Encode
from optimize.tasks import classify, embed, rerank
from optimize.tasks.classify import ClassFigures

Rows = npt.NDArray[np.intp]
Predictions = npt.NDArray[Any]

PREDICTIONS = "predictions.npy"


def no_classes(_: Any, __: Predictions) -> list[ClassFigures]:
    """Tasks without classes have no figures of them."""
    return []


@dataclass(frozen=True)
class TaskFunctions:
    """`read(folder, evaluation)` gives data with .queries-like texts, .segments, .calibration,
    .provenance, .summary and .shortage(evaluation); `measure(data, predictions, rows)` every metric over
    some rows of them; `class_figures(data, predictions)` those of each class, where there are classes.
    """

    read: Callable[[Path, Any], Any]
    write_predictions: Callable[[Callable[[], Encode], Any, Path | None, Path], None]
    measure: Callable[[Any, Predictions, Rows], dict[str, float]]
    primary: str  # the metric that variants are compared by
    class_figures: Callable[[Any, Predictions], list[ClassFigures]] = no_classes


def write_plain_predictions(
    predict: Callable[[Encode, Any], Predictions],
    open_encoder: Callable[[], Encode],
    data: Any,
    _: Path | None,
    destination: Path,
) -> None:
    """The quality step of tasks whose predictions need nothing but the model and the data."""
    np.save(destination / PREDICTIONS, predict(open_encoder(), data))


TASKS: dict[Task, TaskFunctions] = {
    "embed": TaskFunctions(
        read=read_retrieval,
        write_predictions=embed.write_predictions,
        measure=embed.measure,
        primary="ndcg@10",
    ),
    "classify": TaskFunctions(
        read=read_labelled,
        write_predictions=partial(write_plain_predictions, classify.predict),
        measure=classify.measure,
        primary="accuracy",
        class_figures=classify.class_figures,
    ),
    "rerank": TaskFunctions(
        read=rerank.read_data,
        write_predictions=partial(write_plain_predictions, rerank.predict),
        measure=rerank.measure,
        primary="ndcg@10",
    ),
}
