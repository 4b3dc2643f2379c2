"""A student of some layers, trained into its teacher's own vector space: documents keep their vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.triton.text_encoder.tokens import padded_inputs
from optimize.distill.layers import (
    keep_layers,
    save_beside_tokenizer,
    switch_off_dropout,
    write_training_log,
)
from optimize.distill.teacher import VECTORS
from optimize.load import open_source
from optimize.sections import StudentDistillation
from optimize.training import LoopSettings, Rows, device, precision, train

PAIRWISE_WEIGHT = 10.0  # so that both parts of the loss are of one size
VALIDATION_BATCH = 64


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
    module = model.module.to(device())
    keep_layers(module.encoder, section.layers)
    switch_off_dropout(module)
    encodings = model.tokenizer.encode_batch_fast(list(texts))
    targets = torch.from_numpy(np.load(teacher / VECTORS))  # [N, dim]
    learned, held_out = split_rows(len(texts), section)

    def vectors_of(rows: Rows) -> torch.Tensor:
        feed = padded_inputs([encodings[row] for row in rows])
        where = device()
        with precision(where):
            vectors: torch.Tensor = module(
                **{name: torch.from_numpy(ids).to(where) for name, ids in feed.items()}
            )
        return vectors.float()

    def loss_of(rows: Rows) -> torch.Tensor:
        chosen = learned[rows]
        return imitation_loss(vectors_of(chosen), targets[chosen].to(device()))

    def validate() -> float:
        batches = np.array_split(held_out, max(1, len(held_out) // VALIDATION_BATCH))
        return float(np.mean([1 - cosine(vectors_of(b), targets[b].to(device())) for b in batches]))

    lengths = np.array([len(encodings[row]) for row in learned])
    settings = LoopSettings(
        epochs=section.epochs,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        patience=section.patience,
        seed=section.seed,
        max_minutes=section.max_minutes,
    )
    module.train()
    history = train(module, lengths, loss_of, validate, settings, checkpoint)
    module.to("cpu")
    save_beside_tokenizer(module.encoder, source, destination)
    write_training_log(destination, history, texts=len(learned), validation_texts=len(held_out))


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


def split_rows(
    count: int, section: StudentDistillation
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows to learn from and rows to validate on."""
    order = np.random.default_rng(section.seed).permutation(count)
    held_out = max(1, int(count * section.validation_share))
    return order[held_out:], order[:held_out]
