"""Classifiers that are trained: questions of letters whose class can be read off the letters."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.triton.text_encoder.encoder import TextEncoder, open_session
from optimize.classifier import fit_temperature, open_classifier
from optimize.data.labelled import Labelled
from optimize.errors import SourceError, TrainingError
from optimize.export_onnx import export_onnx
from optimize.fine_tune import (
    soft_label_loss,
    split_rows,
    write_classifier_student,
    write_fine_tuned,
)
from optimize.frozen import write_frozen
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import FineTune, StudentDistillation

LETTERS = {"first": "abcdef", "second": "uvwxyz"}
SECTION = FineTune(epochs=4, learning_rate=5e-3, patience=99)
STUDENT = StudentDistillation(layers=(1,), epochs=6, batch_size=32, learning_rate=5e-3, patience=99)


def texts_of(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    letters = [list(LETTERS[name]) for name in LETTERS]
    texts = [
        " ".join("".join(rng.choice(letters[label], 3)) for _ in range(rng.integers(2, 5)))
        for label in labels
    ]
    return texts, labels


@pytest.fixture(scope="module")
def data() -> Labelled:
    (train_texts, train_labels), (texts, labels) = texts_of(320, 0), texts_of(100, 1)
    return Labelled(
        texts=texts,
        labels=labels,
        label_names=list(LETTERS),
        train_texts=train_texts,
        train_labels=train_labels,
        segments={},
        calibration=train_texts[:8],
        provenance="made up",
        digests={},
    )


@pytest.fixture(scope="module")
def fine_tuned(tiny_model: Path, data: Labelled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fine-tuned")
    write_fine_tuned(tiny_model, data, SECTION, folder / "checkpoint", folder)
    return folder


def accuracy(directory: Path, data: Labelled) -> float:
    probabilities = open_classifier(directory, 64).encode(data.texts)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    return float((probabilities.argmax(axis=1) == data.labels).mean())


def test_a_classifier_learns_what_its_labels_say(fine_tuned: Path, data: Labelled):
    assert accuracy(fine_tuned, data) > 0.95


def test_its_log_says_what_it_was_validated_on(fine_tuned: Path, data: Labelled):
    log = json.loads((fine_tuned / "training.json").read_text())
    assert log["texts"] + log["validation_texts"] == len(data.train_texts)
    assert log["validation_accuracy"] > 0.9
    stored = json.loads((fine_tuned / "temperature.json").read_text())
    assert stored["temperature"] == pytest.approx(log["temperature"])


def test_a_student_of_fewer_layers_imitates_it(fine_tuned: Path, data: Labelled, tmp_path: Path):
    write_classifier_student(fine_tuned, data, STUDENT, tmp_path / "checkpoint", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 1
    assert accuracy(tmp_path, data) > 0.9


def test_its_graph_gives_the_same_probabilities(
    fine_tuned: Path, data: Labelled, tiny_recipe: Recipe, tmp_path: Path
):
    source = open_classifier(fine_tuned, 64, "eager")
    export_onnx(source, 17, tmp_path / "model.onnx", "probabilities")
    recipe = tiny_recipe.model_copy(update={"task": "classify"})
    settings = encoder_settings(recipe)
    session = open_session(tmp_path / "model.onnx", settings)
    served = TextEncoder(session, source.tokenizer, settings).encode(data.texts[:20]).outputs
    np.testing.assert_allclose(served, source.encode(data.texts[:20]), atol=1e-5)


def test_training_twice_gives_the_same_weights(
    fine_tuned: Path, tiny_model: Path, data: Labelled, tmp_path: Path
):
    write_fine_tuned(tiny_model, data, SECTION, tmp_path / "checkpoint", tmp_path)
    head = "head.safetensors"
    assert (tmp_path / head).read_bytes() == (fine_tuned / head).read_bytes()


def test_too_few_texts_to_train_on_are_refused(tiny_model: Path, data: Labelled, tmp_path: Path):
    few = replace(data, train_texts=data.train_texts[:20], train_labels=data.train_labels[:20])
    with pytest.raises(TrainingError, match="20 training texts: a classifier needs at least 50"):
        write_fine_tuned(tiny_model, few, SECTION, tmp_path / "checkpoint", tmp_path)


def test_a_fine_tuning_out_of_time_ends_and_is_still_a_classifier(
    tiny_model: Path, data: Labelled, tmp_path: Path
):
    hurried = SECTION.model_copy(update={"max_minutes": 1e-9})
    write_fine_tuned(tiny_model, data, hurried, tmp_path / "checkpoint", tmp_path)
    log = json.loads((tmp_path / "training.json").read_text())
    assert [point["step"] for point in log["history"]] == [1]
    assert open_classifier(tmp_path, 64).encode(["a b"]).shape == (1, 2)


def test_no_row_is_both_learned_and_validated_on(data: Labelled):
    split = split_rows(data, 0.1, seed=3)
    rows = np.concatenate([split.learned, split.held_out])
    assert sorted(rows) == list(range(len(data.train_texts)))
    assert len(split.held_out) == 32


def test_a_student_that_agrees_with_teacher_and_labels_loses_almost_nothing():
    logits = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    labels = torch.tensor([0, 1])
    assert float(soft_label_loss(logits, logits, labels, 2.0)) < 1e-3
    assert float(soft_label_loss(-logits, logits, labels, 2.0)) > 10


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20_000, 4, generator=generator)
    chances = torch.softmax(logits / temperature, dim=1)
    labels = torch.multinomial(chances, 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_an_encoder_without_a_head_says_how_to_get_one(tiny_model: Path):
    with pytest.raises(SourceError, match="no classification head yet: add fine_tune"):
        open_classifier(tiny_model, 64)


def test_what_needs_no_fine_tuning_is_measured_on_the_same_texts(
    tiny_model: Path, data: Labelled, tmp_path: Path
):
    write_frozen(tiny_model, 64, data, tmp_path)
    found = json.loads((tmp_path / "frozen.json").read_text())
    assert found["frozen vectors + logistic regression"] > 0.8
    assert found["TF-IDF + logistic regression"] > 0.8
    unseen = replace(data, texts=["aaaa bbbb", "xxxx yyyy"], labels=np.array([0, 1]))
    write_frozen(tiny_model, 64, unseen, tmp_path)
    found = json.loads((tmp_path / "frozen.json").read_text())
    assert found["TF-IDF + logistic regression"] == 0.5  # which knows none of these words
