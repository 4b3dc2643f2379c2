import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from optimize.errors import TrainingError
from optimize.training import (
    LoopSettings,
    Point,
    Rows,
    batches_of_epoch,
    learning_rate_share,
    train,
)

SETTINGS = LoopSettings(epochs=4, batch_size=8, learning_rate=0.05, patience=99, seed=0)
TEXTS = 64
LENGTHS = np.arange(TEXTS) % 7 + 3
STEPS_PER_EPOCH = TEXTS // SETTINGS.batch_size
INPUTS = torch.randn(TEXTS, 4, generator=torch.Generator().manual_seed(1))
TARGETS = INPUTS @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


class KilledError(Exception):
    """What stands in for a kill: nothing of the library catches it."""


def new_module() -> torch.nn.Module:
    """Two layers with dropout between them, the same each time."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
    )


def run(
    checkpoint: Path,
    settings: LoopSettings = SETTINGS,
    kill_at: int | None = None,
    validate: Callable[[torch.nn.Module], float] | None = None,
) -> tuple[torch.nn.Module, list[Point]]:
    """Fit the targets; raise KilledError in place of a step."""
    module = new_module()
    steps = iter(range(10**6))

    def loss_of(rows: Rows) -> torch.Tensor:
        if next(steps) == kill_at:
            raise KilledError
        return torch.nn.functional.mse_loss(module(INPUTS[rows]), TARGETS[rows])

    def loss_of_all() -> float:
        return float(torch.nn.functional.mse_loss(module(INPUTS), TARGETS))

    judge = loss_of_all if validate is None else lambda: validate(module)
    return module, train(module, LENGTHS, loss_of, judge, settings, checkpoint)


def weights_of(module: torch.nn.Module) -> list[list[float]]:
    return [weight.flatten().tolist() for weight in module.state_dict().values()]


def losses_of(history: list[Point]) -> list[tuple[int, float, float]]:
    return [(point.step, point.train_loss, point.validation_loss) for point in history]


def test_training_lowers_the_loss_and_says_how(tmp_path: Path) -> None:
    _, history = run(tmp_path / "checkpoint")
    assert history[-1].validation_loss < history[0].validation_loss / 4
    assert history[-1].step == SETTINGS.epochs * STEPS_PER_EPOCH
    assert [p.seconds for p in history] == sorted(p.seconds for p in history)


@pytest.mark.parametrize("kill_at", [3, 13, 31])
def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(
    tmp_path: Path, kill_at: int
) -> None:
    undisturbed, expected = run(tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        run(tmp_path / "checkpoint", kill_at=kill_at)
    resumed, history = run(tmp_path / "checkpoint")
    assert weights_of(resumed) == weights_of(undisturbed)
    assert losses_of(history) == losses_of(expected)


def test_a_resumed_run_does_not_repeat_the_steps_before_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path / "checkpoint", kill_at=13)
    run(tmp_path / "checkpoint", kill_at=SETTINGS.epochs * STEPS_PER_EPOCH - 12)


def test_the_checkpoint_is_gone_after_success(tmp_path: Path) -> None:
    run(tmp_path / "folder" / "checkpoint")
    assert not (tmp_path / "folder" / "checkpoint").exists()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_checkpoint_is_left_aside_with_a_notice(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint"
    undisturbed, _ = run(tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        run(path, kill_at=13)
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes({"flipped": flipped, "cut": whole[:middle], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        begun_anew, _ = run(path)
    assert "training starts anew" in caplog.text
    assert weights_of(begun_anew) == weights_of(undisturbed)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path: Path) -> None:
    slower = replace(SETTINGS, learning_rate=0.01)
    undisturbed, _ = run(tmp_path / "undisturbed", slower)
    with pytest.raises(KilledError):
        run(tmp_path / "checkpoint", kill_at=13)
    module, _ = run(tmp_path / "checkpoint", slower)
    assert weights_of(module) == weights_of(undisturbed)


def test_training_stops_when_it_no_longer_gains_and_keeps_the_best_weights(
    tmp_path: Path,
) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    seen: list[list[list[float]]] = []

    def validate(module: torch.nn.Module) -> float:
        seen.append(weights_of(module))
        return next(losses)

    module, history = run(tmp_path / "checkpoint", replace(SETTINGS, patience=3), None, validate)
    assert [point.validation_loss for point in history] == [3.0, 1.0, 2.0, 2.0, 2.0]
    assert weights_of(module) == seen[1]


def test_a_run_out_of_time_validates_once_more_and_ends(tmp_path: Path) -> None:
    _, history = run(tmp_path / "checkpoint", replace(SETTINGS, max_minutes=1e-9))
    assert [point.step for point in history] == [1]


def test_a_training_loss_that_is_no_number_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lower learning_rate"):
        run(tmp_path / "checkpoint", replace(SETTINGS, learning_rate=1e30))


def test_a_validation_loss_that_is_no_number_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="validation loss became nan"):
        run(tmp_path / "checkpoint", validate=lambda _: math.nan)


def test_a_full_gpu_is_a_clear_error(tmp_path: Path) -> None:
    def loss_of(_: Rows) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(TrainingError, match="lower batch_size"):
        train(new_module(), LENGTHS, loss_of, lambda: 0.0, SETTINGS, tmp_path / "checkpoint")


def test_an_epoch_holds_every_row_once_in_batches_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    batches = batches_of_epoch(lengths, 16, (0, 0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    assert spread < np.ptp(lengths) / 4


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(row) for batch in batches_of_epoch(LENGTHS, 8, (seed, epoch)) for row in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    shares = [learning_rate_share(step, 100) for step in range(100)]
    peak = shares.index(max(shares))
    assert max(shares) == 1.0
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert 0 < shares[-1] < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_module_on_a_gpu_is_resumed_there(tmp_path: Path) -> None:
    def trained(path: Path, kill_at: int | None) -> torch.nn.Module:
        module = new_module().cuda()
        steps = iter(range(10**6))

        def loss_of(rows: Rows) -> torch.Tensor:
            if next(steps) == kill_at:
                raise KilledError
            return torch.nn.functional.mse_loss(module(INPUTS[rows].cuda()), TARGETS[rows].cuda())

        train(module, LENGTHS, loss_of, lambda: 0.0, replace(SETTINGS, patience=10**6), path)
        return module

    undisturbed = trained(tmp_path / "undisturbed", None)
    with pytest.raises(KilledError):
        trained(tmp_path / "checkpoint", 13)
    resumed = trained(tmp_path / "checkpoint", None)
    for ours, theirs in zip(resumed.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(ours, theirs)
