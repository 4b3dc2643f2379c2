import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import optimize.distill.student as student_module
from optimize.distill.student import cosine, encode, imitation_loss, split_rows, write_student
from optimize.distill.teacher import VECTORS
from optimize.errors import SourceError, TrainingError
from optimize.load import POOLING_CONFIG, open_source
from optimize.sections import StudentDistillation

from .conftest import TEXT_TOKENS, TEXTS

SECTION = StudentDistillation(
    layers=(1,), epochs=6, batch_size=16, learning_rate=3e-3, max_tokens=TEXT_TOKENS, patience=99
)


@pytest.fixture(scope="session")
def student(
    tiny_model: Path,
    training_texts: list[str],
    teacher: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """One layer of the tiny model's two, trained."""
    folder = tmp_path_factory.mktemp("student")
    write_student(tiny_model, training_texts, teacher, SECTION, folder / "checkpoint", folder)
    return folder


def likeness(directory: Path, texts: list[str], teacher: Path) -> float:
    vectors = open_source(directory, TEXT_TOKENS).encode(texts)
    return float((vectors * np.load(teacher / VECTORS)).sum(axis=1).mean())


def test_a_student_opens_like_its_source_and_has_fewer_layers(
    student: Path, tiny_model: Path
) -> None:
    config = open_source(student, TEXT_TOKENS).module.config
    assert config.num_hidden_layers == 1
    assert (student / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    assert not (student / POOLING_CONFIG).exists()


def test_a_student_has_the_pooling_of_its_source(
    model_copy: Path,
    write_json: Callable[[Path, object], None],
    training_texts: list[str],
    teacher: Path,
    tmp_path: Path,
) -> None:
    write_json(model_copy / POOLING_CONFIG, {"pooling_mode_cls_token": True})
    short = SECTION.model_copy(update={"epochs": 1})
    made = tmp_path / "student"
    write_student(model_copy, training_texts, teacher, short, tmp_path / "checkpoint", made)
    assert json.loads((made / POOLING_CONFIG).read_text()) == {"pooling_mode_cls_token": True}


def test_training_moves_a_student_towards_its_teacher(
    student: Path, tiny_model: Path, training_texts: list[str], teacher: Path, tmp_path: Path
) -> None:
    barely = SECTION.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
    write_student(tiny_model, training_texts, teacher, barely, tmp_path / "checkpoint", tmp_path)
    untrained = likeness(tmp_path, training_texts, teacher)
    assert likeness(student, training_texts, teacher) > untrained + (1 - untrained) / 4


def test_the_token_embeddings_stay_those_of_the_teacher(student: Path, tiny_model: Path) -> None:
    ours = load_file(student / "model.safetensors")
    theirs = load_file(tiny_model / "model.safetensors")
    frozen = [name for name in ours if name.startswith("embeddings.")]
    assert frozen
    assert all(torch.equal(ours[name], theirs[name]) for name in frozen)


def test_the_log_says_what_was_trained_and_how_near_it_came(student: Path) -> None:
    log = json.loads((student / "training.json").read_text())
    held_out = int(TEXTS * SECTION.validation_share)
    assert (log["texts"], log["validation_texts"]) == (TEXTS - held_out, held_out)
    losses = [point["validation_loss"] for point in log["history"]]
    assert log["validation_cosine"] == pytest.approx(1 - min(losses))
    assert log["history"][0].keys() == {"step", "train_loss", "validation_loss"}


def test_a_killed_distillation_goes_on_to_the_same_student(
    student: Path,
    tiny_model: Path,
    training_texts: list[str],
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = iter(range(10**6))

    def killed_midway(*vectors: torch.Tensor) -> torch.Tensor:
        if next(calls) == 40:
            raise KeyboardInterrupt
        return imitation_loss(*vectors)

    checkpoint, lost, made = (tmp_path / name for name in ("checkpoint", "lost", "made"))
    source = (tiny_model, training_texts, teacher, SECTION, checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(student_module, "imitation_loss", killed_midway)
        with pytest.raises(KeyboardInterrupt):
            write_student(*source, lost)
    assert checkpoint.is_file()
    write_student(*source, made)
    ours = load_file(made / "model.safetensors")
    theirs = load_file(student / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("layers", "words"),
    [((0, 2), r"names \[2\].*0 to 1"), ((1, -1), "names a layer twice")],
)
def test_layers_that_are_not_there_are_a_clear_error(
    layers: tuple[int, ...],
    words: str,
    tiny_model: Path,
    training_texts: list[str],
    teacher: Path,
    tmp_path: Path,
) -> None:
    section = SECTION.model_copy(update={"layers": layers})
    with pytest.raises(TrainingError, match=words):
        write_student(tiny_model, training_texts, teacher, section, tmp_path / "c", tmp_path)


def test_a_teacher_with_damaged_weights_is_refused(
    model_copy: Path, training_texts: list[str], teacher: Path, tmp_path: Path
) -> None:
    path = model_copy / "model.safetensors"
    weights = load_file(path)
    weights["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(SourceError, match="NaN"):
        write_student(model_copy, training_texts, teacher, SECTION, tmp_path / "c", tmp_path)


def test_teacher_vectors_that_are_no_numbers_are_a_clear_error(
    tiny_model: Path, training_texts: list[str], tmp_path: Path
) -> None:
    np.save(tmp_path / VECTORS, np.full((TEXTS, 32), np.nan, dtype=np.float32))
    with pytest.raises(TrainingError, match="lower learning_rate"):
        write_student(
            tiny_model, training_texts, tmp_path, SECTION, tmp_path / "c", tmp_path / "student"
        )


def test_the_loss_is_nothing_for_the_teacher_itself_and_grows_with_distance() -> None:
    teacher = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
    near = torch.nn.functional.normalize(teacher + 0.1 * torch.randn(8, 4), dim=1)
    assert float(imitation_loss(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert 0 < float(imitation_loss(near, teacher)) < float(imitation_loss(-teacher, teacher))


def test_vectors_that_collapse_cost_more_than_their_distance_alone() -> None:
    teacher = torch.eye(4)
    collapsed = torch.nn.functional.normalize(torch.ones(4, 4), dim=1)
    assert float(imitation_loss(collapsed, teacher)) > 1 - cosine(collapsed, teacher)


def test_every_text_is_either_learned_from_or_validated_on() -> None:
    lengths = [5, 9, 3, 7] * 25
    learned, held_out = split_rows(lengths, SECTION)
    assert sorted([*learned, *held_out]) == list(range(100))
    assert len(held_out) == int(100 * SECTION.validation_share)
    assert [lengths[row] for row in held_out] == sorted(lengths[row] for row in held_out)


def test_validating_on_everything_still_leaves_texts_to_learn_from() -> None:
    learned, _ = split_rows([5] * 100, SECTION.model_copy(update={"validation_share": 1.0}))
    assert len(learned) == 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_student_on_a_gpu_encodes_like_one_on_the_cpu(
    tiny_model: Path, training_texts: list[str]
) -> None:
    model = open_source(tiny_model, TEXT_TOKENS)
    expected = model.encode(training_texts[:16])
    encodings = model.tokenizer.encode_batch_fast(training_texts[:16])
    with torch.inference_mode():
        found = encode(model.module.cuda(), encodings).cpu().numpy()
    assert (found * expected).sum(axis=1).min() > 0.99
