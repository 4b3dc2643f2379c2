"""Train a classifier, or a smaller one that imitates it: the head, and the encoder below it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Encoding

from models.triton.text_encoder.tokens import padded_inputs
from optimize.classifier import fit_temperature, open_classifier, save_classifier
from optimize.data.labelled import Labelled, refuse_other_classes
from optimize.devices import device, precision
from optimize.distill.layers import keep_layers, switch_off_dropout, write_training_log
from optimize.errors import TrainingError
from optimize.load import open_transformer, read_pooling
from optimize.modules import Classifier, HeadedClassifier
from optimize.sections import FineTune, StudentDistillation
from optimize.training import LoopSettings, Rows, loop_settings, train

MIN_TRAINING_TEXTS = 50
BATCH = 64
HARD_LABEL_SHARE = 0.3  # of a student's loss; the rest is its teacher's soft labels

AnyClassifier = Classifier | HeadedClassifier


@dataclass(frozen=True)
class Split:
    """Rows of the training data to learn from and to validate on."""

    learned: npt.NDArray[np.intp]
    held_out: npt.NDArray[np.intp]


def write_fine_tuned(
    source: Path, data: Labelled, section: FineTune, checkpoint: Path, destination: Path
) -> None:
    """The step: a classifier directory (classifier.py) and training.json. Raises TrainingError."""
    torch.manual_seed(section.seed)
    tokenizer, encoder = open_transformer(source, section.max_tokens, "embed", "sdpa")
    model = Classifier(encoder, read_pooling(source), len(data.label_names)).to(device())
    encodings = tokenizer.encode_batch_fast(data.train_texts)
    split = split_rows(data, section.validation_share, section.seed)
    labels = torch.from_numpy(data.train_labels)

    def loss_of(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels[rows].to(logits.device))

    fit(model, encodings, split, loss_of, labels, loop_settings(section), checkpoint, destination)
    save_classifier(model.to("cpu"), data.label_names, source, destination)


def write_classifier_student(
    teacher: Path,
    data: Labelled,
    section: StudentDistillation,
    checkpoint: Path,
    destination: Path,
) -> None:
    """The step: a smaller classifier of some of the teacher's layers, trained on its soft labels.

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    """
    torch.manual_seed(section.seed)
    taught = open_classifier(teacher, section.max_tokens)
    assert isinstance(taught.module, AnyClassifier)
    encodings = taught.tokenizer.encode_batch_fast(data.train_texts)
    soft = logits_of(taught.module.to(device()), encodings, np.arange(len(encodings)))
    refuse_other_classes(soft.shape[1], data.label_names)
    student = untrained_student(teacher, section, len(data.label_names)).to(device())
    split = split_rows(data, section.validation_share, section.seed)
    labels = torch.from_numpy(data.train_labels)

    def loss_of(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        targets = soft[rows].to(logits.device)
        return soft_label_loss(logits, targets, labels[rows].to(logits.device), section.temperature)

    fit(student, encodings, split, loss_of, labels, loop_settings(section), checkpoint, destination)
    save_classifier(student.to("cpu"), data.label_names, teacher, destination)


def untrained_student(teacher: Path, section: StudentDistillation, classes: int) -> Classifier:
    """Some of the teacher's layers below its head; below a new one where the teacher's is of another kind."""
    model = open_classifier(teacher, section.max_tokens).module
    if not isinstance(model, Classifier):
        _, encoder = open_transformer(teacher, section.max_tokens, "embed", "sdpa")
        model = Classifier(encoder, read_pooling(teacher), classes)
    keep_layers(model.encoder, section.layers)
    switch_off_dropout(model)
    return model


def soft_label_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """[N, C] logits of both: the teacher's softened distribution, and the labels. The square of the
    temperature keeps the gradients of both parts of one size, as Hinton et al. say.
    """
    soft = torch.nn.functional.kl_div(
        torch.log_softmax(student / temperature, dim=1),
        torch.softmax(teacher / temperature, dim=1),
        reduction="batchmean",
    )
    hard = torch.nn.functional.cross_entropy(student, labels)
    return (1 - HARD_LABEL_SHARE) * temperature**2 * soft + HARD_LABEL_SHARE * hard


def fit(
    model: Classifier,
    encodings: Sequence[Encoding],
    split: Split,
    loss_of: Callable[[torch.Tensor, Rows], torch.Tensor],
    labels: torch.Tensor,
    settings: LoopSettings,
    checkpoint: Path,
    destination: Path,
) -> None:
    """Train, calibrate on the validation rows and write the log. `loss_of` takes logits and their rows."""

    def loss_of_rows(rows: Rows) -> torch.Tensor:
        chosen = split.learned[rows]
        return loss_of(forward(model, encodings, chosen), chosen)

    def validate() -> float:
        logits = logits_of(model, encodings, split.held_out)
        return float(torch.nn.functional.cross_entropy(logits, labels[split.held_out]))

    model.train()
    lengths = np.array([len(encodings[row]) for row in split.learned])
    history = train(model, lengths, loss_of_rows, validate, settings, checkpoint)
    validated = logits_of(model, encodings, split.held_out)
    model.temperature = fit_temperature(validated, labels[split.held_out])
    right = validated.argmax(dim=1) == labels[split.held_out]
    write_training_log(
        destination,
        history,
        texts=len(split.learned),
        validation_texts=len(split.held_out),
        validation_accuracy=float(right.float().mean()),
        temperature=model.temperature,
    )


def forward(model: AnyClassifier, encodings: Sequence[Encoding], rows: Rows) -> torch.Tensor:
    """The logits [N, C] of some rows, with their graph."""
    where = next(model.parameters()).device
    feed = padded_inputs([encodings[row] for row in rows])
    with precision(where):
        logits = model.logits(**{n: torch.from_numpy(ids).to(where) for n, ids in feed.items()})
    return logits.float()


def logits_of(model: AnyClassifier, encodings: Sequence[Encoding], rows: Rows) -> torch.Tensor:
    """The logits [N, C] of many rows, on the CPU, without dropout."""
    model.eval()
    batches = np.array_split(rows, max(1, len(rows) // BATCH))
    with torch.inference_mode():
        found = torch.cat([forward(model, encodings, batch).cpu() for batch in batches])
    return found.clone()  # a tensor of inference mode may not take part in training


def split_rows(data: Labelled, validation_share: float, seed: int) -> Split:
    """A share of the training texts for validation, never of what is tested."""
    count = len(data.train_texts)
    if count < MIN_TRAINING_TEXTS:
        raise TrainingError(
            f"{count} training texts: a classifier needs at least {MIN_TRAINING_TEXTS}, and some dozens of "
            "each class to be any good"
        )
    order = np.random.default_rng(seed).permutation(count)
    held_out = max(1, int(count * validation_share))
    return Split(learned=order[held_out:], held_out=order[:held_out])
