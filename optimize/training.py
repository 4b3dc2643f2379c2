"""One training loop for students and classifiers: warm-up, early stopping, checkpoints, resume.

A run that was killed goes on from its last checkpoint and takes the same steps as an undisturbed one:
which rows a step takes depends on the seed and the step alone, and dropout on the stored generators.
"""

import hashlib
import io
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.files import write_atomically
from optimize.errors import TrainingError
from optimize.progress import progress
from optimize.sections import FineTune, StudentDistillation

WARMUP_SHARE = 0.06
CLIP_NORM = 1.0
WEIGHT_DECAY = 0.01
WINDOW_BATCHES = 20  # texts of similar length share a batch within a window of so many batches
VALIDATIONS_PER_EPOCH = 4

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.intp]
Weights = dict[str, torch.Tensor]
LossOf = Callable[[Rows], torch.Tensor]  # rows of the training data -> a scalar with its graph


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train. `patience` counts validations without improvement."""

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    seed: int
    max_minutes: float = math.inf


def loop_settings(section: FineTune | StudentDistillation) -> LoopSettings:
    """What a recipe's section says of them."""
    names = [each.name for each in fields(LoopSettings) if hasattr(section, each.name)]
    return LoopSettings(**{name: getattr(section, name) for name in names})


@dataclass(frozen=True)
class Point:
    """One validation: losses are means since the one before, and over the validation rows."""

    step: int
    train_loss: float
    validation_loss: float
    seconds: float


@dataclass
class State:
    """Where a run stands, beside the weights and the optimizer."""

    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    without_gain: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    module: torch.nn.Module,
    lengths: npt.NDArray[np.int64],
    loss_of: LossOf,
    validate: Callable[[], float],
    settings: LoopSettings,
    checkpoint: Path,
) -> list[Point]:
    """Train `module` in place and leave it with its best validated weights; returns the validations.

    `lengths` [N] are tokens per training row. `checkpoint` is a file that outlives a kill; it is removed
    at the end. Raises TrainingError when a loss is not a number or the GPU's memory is full.
    """
    run = Run(module, lengths, settings, checkpoint)
    try:
        return run_steps(run, lengths, loss_of, validate)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the GPU's memory is full at batches of {settings.batch_size}: lower batch_size or max_tokens"
        ) from error


def run_steps(
    run: "Run",
    lengths: npt.NDArray[np.int64],
    loss_of: LossOf,
    validate: Callable[[], float],
) -> list[Point]:
    """Take the steps that are left, validating in between."""
    settings = run.settings
    run.resume()
    begin_s = time.monotonic() - run.state.seconds
    since: list[float] = []
    for step in progress(run.steps_left(), f"training {run.steps:,} steps"):
        epoch, position = divmod(step, run.steps_per_epoch)
        if position == 0 or step == run.state.step:
            order = batches_of_epoch(lengths, settings.batch_size, (settings.seed, epoch))
        since.append(run.take_step(step, loss_of(order[position])))
        run.state.seconds = time.monotonic() - begin_s
        if run.is_validation(step) or run.is_late():
            run.record(step, float(np.mean(since)), evaluated(run.module, validate))
            since.clear()
            if run.is_over():
                break
    return run.finish()


class Run:
    """The weights, the optimizer and the state of one training."""

    def __init__(
        self,
        module: torch.nn.Module,
        lengths: npt.NDArray[np.int64],
        settings: LoopSettings,
        checkpoint: Path,
    ) -> None:
        self.module = module
        self.settings = settings
        self.checkpoint = checkpoint
        self.identity = identity_of(module, lengths, settings)
        self.steps_per_epoch = math.ceil(len(lengths) / settings.batch_size)
        self.steps = self.steps_per_epoch * settings.epochs
        self.state = State()
        self.best = copy_weights(module)
        learned = [weight for weight in module.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            learned, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )

    def steps_left(self) -> range:
        """The steps still to take: none for a run that was killed after its last."""
        return range(self.state.step, self.state.step if self.is_over() else self.steps)

    def take_step(self, step: int, loss: torch.Tensor) -> float:
        """One update; the loss before it."""
        value = float(loss.detach())
        refuse_not_a_number("training", value, step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * learning_rate_share(step, self.steps)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), CLIP_NORM)
        self.optimizer.step()
        return value

    def is_validation(self, step: int) -> bool:
        """Several times per epoch, and at the end."""
        every = max(1, self.steps_per_epoch // VALIDATIONS_PER_EPOCH)
        return (step + 1) % every == 0 or step + 1 == self.steps

    def record(self, step: int, train_loss: float, validation_loss: float) -> None:
        """Note a validation, keep the weights if they are the best so far, write the checkpoint."""
        refuse_not_a_number("validation", validation_loss, step)
        state = self.state
        state.step = step + 1
        point = Point(state.step, train_loss, validation_loss, state.seconds)
        state.history.append(asdict(point))
        state.without_gain += 1
        if validation_loss < state.best_loss:
            state.best_loss, state.without_gain = validation_loss, 0
            self.best = copy_weights(self.module)
        self.save()

    def is_over(self) -> bool:
        """Whether going on would not pay, or takes longer than allowed."""
        return self.state.without_gain >= self.settings.patience or self.is_late()

    def is_late(self) -> bool:
        """Whether the time is used up."""
        return self.state.seconds >= 60 * self.settings.max_minutes

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        stream = io.BytesIO()
        content = {
            "state": asdict(self.state),
            "weights": self.module.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }
        torch.save(content, stream)
        stored = stream.getvalue()
        write_atomically(self.checkpoint, self.seal(stored) + stored)

    def seal(self, stored: bytes) -> bytes:
        """32 bytes that go before a checkpoint: it is whole, and it is this run's."""
        return hashlib.sha256(self.identity + stored).digest()

    def resume(self) -> None:
        """Go on from the checkpoint, unless it is damaged or of another run: then from the beginning."""
        if not self.checkpoint.is_file():
            return
        whole = self.checkpoint.read_bytes()
        seal, stored = whole[:32], whole[32:]
        if seal != self.seal(stored):
            logger.warning("%s is damaged or of another run: training starts anew", self.checkpoint)
            return
        content: dict[str, Any] = torch.load(
            io.BytesIO(stored), weights_only=True, map_location="cpu"
        )
        on_cpu, *on_gpus = content["generators"]
        self.module.load_state_dict(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.best, self.state = content["best"], State(**content["state"])
        torch.set_rng_state(on_cpu)
        if len(on_gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(on_gpus)

    def finish(self) -> list[Point]:
        """Put the best weights in place and remove the checkpoint."""
        self.module.load_state_dict(self.best)
        self.module.eval()
        self.checkpoint.unlink(missing_ok=True)
        return [Point(**point) for point in self.state.history]  # type: ignore[arg-type]


def identity_of(
    module: torch.nn.Module, lengths: npt.NDArray[np.int64], settings: LoopSettings
) -> bytes:
    """A digest of what a run starts from, so that no other run goes on from its checkpoint."""
    facts = {**asdict(settings), "torch": torch.__version__}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(lengths.astype(np.int64).tobytes())
    learned = {name for name, weight in module.named_parameters() if weight.requires_grad}
    for name, weight in module.state_dict().items():
        digest.update(f"{name} {name in learned}".encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


def refuse_not_a_number(name: str, loss: float, step: int) -> None:
    """Raise TrainingError when a loss is NaN or infinite: no later step could mend the weights."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the {name} loss became {loss} at step {step + 1}: lower learning_rate, and check the data "
            "for empty texts"
        )


def learning_rate_share(step: int, steps: int) -> float:
    """The share of the full learning rate: linear warm-up, then linear decay to 0."""
    warmup = max(1.0, WARMUP_SHARE * steps)
    return min((step + 1) / warmup, (steps - step) / max(1.0, steps - warmup))


def batches_of_epoch(
    lengths: npt.NDArray[np.int64], batch_size: int, seed: tuple[int, int]
) -> list[Rows]:
    """All rows once, in random batches whose texts are of similar length: less padding."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths))
    window = batch_size * WINDOW_BATCHES
    batches: list[Rows] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def evaluated(module: torch.nn.Module, validate: Callable[[], float]) -> float:
    """The validation loss, without gradients and dropout."""
    module.eval()
    with torch.inference_mode():
        loss = validate()
    module.train()
    return loss


def copy_weights(module: torch.nn.Module) -> Weights:
    """The weights as they are now."""
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}
