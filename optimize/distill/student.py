"""A student of some layers, trained into its teacher's own vector space: documents keep their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Encoding

from models.triton.text_encoder.tokens import padded_inputs
from optimize.devices import device, precision
from optimize.distill.layers import (
    keep_layers,
    save_beside_tokenizer,
    switch_off_dropout,
    write_training_log,
)
from optimize.distill.teacher import VECTORS
from optimize.load import open_source
from optimize.sections import StudentDistillation
from optimize.training import Point, Rows, loop_settings, train

PAIRWISE_WEIGHT = 10.0  # so that both parts of the loss are of one size
VALIDATION_BATCH = 64

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Lesson:
    """Texts as tokens with the teacher's vectors [N, dim] of them; rows to learn from and to validate on."""

    encodings: list[Encoding]
    targets: torch.Tensor
    learned: Indices
    held_out: Indices

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each text that is learned from."""
        return np.array([len(self.encodings[row]) for row in self.learned], dtype=np.int64)


def write_student(
    source: Path,
    texts: Sequence[str],
    teacher: Path,
    section: StudentDistillation,
    checkpoint: Path,
    destination: Path,
) -> None:
    """The distillation step: a Hugging Face directory in the source's layout, and training.json.

    `teacher` holds the teacher's vectors [N, dim] of `texts`. Raises TrainingError.
    """
    model = open_source(source, section.max_tokens)
    torch.manual_seed(section.seed)
    student = model.module.to(device())
    keep_layers(student.encoder, section.layers)
    switch_off_dropout(student)
    encodings = model.tokenizer.encode_batch_fast(list(texts))
    rows = split_rows([len(encoding) for encoding in encodings], section)
    lesson = Lesson(encodings, torch.from_numpy(np.load(teacher / VECTORS)), *rows)
    history = learn(student, lesson, section, checkpoint)
    save_beside_tokenizer(student.to("cpu").encoder, source, destination)
    write_training_log(
        destination,
        history,
        texts=len(lesson.learned),
        validation_texts=len(lesson.held_out),
        validation_cosine=1 - min(point.validation_loss for point in history),
        seconds=history[-1].seconds,
    )


def learn(
    student: torch.nn.Module, lesson: Lesson, section: StudentDistillation, checkpoint: Path
) -> list[Point]:
    """Train the student in place until the held-out texts gain no more; returns the validations."""

    def vectors_of(rows: Rows) -> torch.Tensor:
        return encode(student, [lesson.encodings[row] for row in rows])

    def loss_of(rows: Rows) -> torch.Tensor:
        vectors = vectors_of(lesson.learned[rows])
        return imitation_loss(vectors, lesson.targets[lesson.learned[rows]].to(vectors.device))

    def validate() -> float:
        batches = np.array_split(lesson.held_out, max(1, len(lesson.held_out) // VALIDATION_BATCH))
        found = torch.cat([vectors_of(rows).cpu() for rows in batches])
        return 1 - cosine(found, lesson.targets[lesson.held_out])

    settings = loop_settings(section)
    return train(student.train(), lesson.lengths, loss_of, validate, settings, checkpoint)


def encode(student: torch.nn.Module, encodings: list[Encoding]) -> torch.Tensor:
    """The student's vectors [N, dim] of one batch, in FP32."""
    where = next(student.parameters()).device
    feed = {name: torch.from_numpy(ids).to(where) for name, ids in padded_inputs(encodings).items()}
    with precision(where):
        vectors: torch.Tensor = student(**feed)
    return vectors.float()


def imitation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """[N, dim] unit vectors of both: distance to the teacher, and to its similarities within the batch.

    The second part keeps neighbours apart that the first would let collapse (similarity-preserving
    distillation, Tung and Mori, 2019).
    """
    near = (1 - (student * teacher).sum(dim=1)).mean()
    pairwise = torch.nn.functional.mse_loss(student @ student.T, teacher @ teacher.T)
    return near + PAIRWISE_WEIGHT * pairwise


def cosine(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """The mean cosine of unit vectors [N, dim]."""
    return float((student * teacher).sum(dim=1).mean())


def split_rows(lengths: Sequence[int], section: StudentDistillation) -> tuple[Indices, Indices]:
    """Rows to learn from, and rows to validate on by their length: batches of those are hardly padded."""
    order = np.random.default_rng(section.seed).permutation(len(lengths))
    count = min(max(1, int(len(lengths) * section.validation_share)), len(lengths) // 2)
    held_out = order[:count]
    return order[count:], held_out[np.argsort(np.array(lengths)[held_out], kind="stable")]
