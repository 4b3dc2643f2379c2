"""Classifiers that were brought already trained, with the head that Hugging Face saved them with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from models.triton.text_encoder.encoder import TextEncoder, open_session
from models.triton.text_encoder.tokens import open_tokenizer, padded_inputs
from optimize.build import build
from optimize.calibrate import write_calibrated
from optimize.classifier import open_classifier
from optimize.data.labelled import Labelled
from optimize.errors import SourceError
from optimize.fine_tune import write_classifier_student
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import DirectorySource, Evaluation, LabelledFiles, StudentDistillation
from optimize.steps import Workspace
from optimize.tasks.classify import measure
from tests.unit.optimize.test_fine_tune import texts_of

LABELS = ["first", "second"]
BOASTFUL = 5.0  # times too sure of itself
BATCH = 40


@pytest.fixture(scope="module")
def data() -> Labelled:
    """Texts whose class shows in their letters, but for the labels of one in five, which are wrong."""
    (train_texts, train_labels), (texts, labels) = texts_of(400, 0), texts_of(400, 1)
    for some in (train_labels, labels):
        some[::5] = 1 - some[::5]
    return Labelled(
        texts=texts,
        labels=labels,
        label_names=LABELS,
        train_texts=train_texts,
        train_labels=train_labels,
        segments={},
        calibration=train_texts[:40],
        provenance="made up",
        digests={"train": "0"},
    )


@pytest.fixture(scope="module")
def brought(tiny_model: Path, data: Labelled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier as Hugging Face saves it, far too sure of its answers."""
    folder = tmp_path_factory.mktemp("brought")
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    tokenizer = open_tokenizer(tiny_model / "tokenizer.json", 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for start in [*range(0, 400, BATCH)] * 2:
        rows = slice(start, start + BATCH)
        feed = padded_inputs(tokenizer.encode_batch_fast(data.train_texts[rows]))
        labels = torch.from_numpy(data.train_labels[rows])
        optimizer.zero_grad()
        model(
            **{n: torch.from_numpy(ids) for n, ids in feed.items()}, labels=labels
        ).loss.backward()
        optimizer.step()
    with torch.no_grad():
        for weight in model.classifier.parameters():
            weight *= BOASTFUL
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def calibrated(brought: Path, data: Labelled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    write_calibrated(brought, data, 64, folder)
    return folder


def quality(directory: Path, data: Labelled) -> dict[str, float]:
    probabilities = open_classifier(directory, 64).encode(data.texts)
    return measure(data, probabilities, np.arange(len(data.texts)))


def test_a_trained_classifier_is_as_right_as_before_and_says_how_sure_it_may_be(
    brought: Path, calibrated: Path, data: Labelled
):
    before, after = quality(brought, data), quality(calibrated, data)
    assert before["accuracy"] > 0.7
    assert after["accuracy"] == before["accuracy"]
    assert after["ece"] < before["ece"] / 2
    (note,) = json.loads((calibrated / "notes.json").read_text())
    assert "calibrated by a temperature of" in note
    assert "fitted on 400 training texts" in note


def test_too_few_training_texts_leave_it_as_it_is_and_the_notes_say_so(
    brought: Path, data: Labelled, tmp_path: Path
):
    few = replace(data, train_texts=data.train_texts[:49], train_labels=data.train_labels[:49])
    write_calibrated(brought, few, 64, tmp_path)
    assert quality(tmp_path, data) == quality(brought, data)
    assert (
        "not calibrated: 49 training texts are fewer than the 50"
        in (tmp_path / "notes.json").read_text()
    )


def test_a_model_of_other_classes_is_refused(brought: Path, data: Labelled, tmp_path: Path):
    other = replace(data, label_names=[*LABELS, "third"])
    with pytest.raises(SourceError, match="the model knows 2 classes, the data 3"):
        write_calibrated(brought, other, 64, tmp_path)


def test_its_graph_holds_the_temperature(
    brought: Path, data: Labelled, tiny_recipe: Recipe, tmp_path: Path
):
    recipe = tiny_recipe.model_copy(
        update={
            "task": "classify",
            "source": DirectorySource(kind="directory", directory=brought, licence="none"),
            "variants": ("fp32",),
            "evaluation": Evaluation(
                data=LabelledFiles(kind="labelled", train=tmp_path, labels=LABELS, licence="none")
            ),
        }
    )
    built = build(recipe, Workspace(tmp_path / "cache", lambda *_: None), data)
    temperature = built.temperature("fp32")
    assert temperature is not None
    assert temperature > 2
    assert "calibrated" in built.notes("pytorch")[0]
    graph, tokenizer = built.served_files("fp32")
    settings = encoder_settings(recipe)
    encoder = TextEncoder(open_session(graph, settings), open_tokenizer(tokenizer, 64), settings)
    expected = open_classifier(built.model.directory, 64).encode(data.texts[:20])
    np.testing.assert_allclose(encoder.encode(data.texts[:20]).outputs, expected, atol=1e-5)


def test_a_student_of_it_imitates_it(brought: Path, data: Labelled, tmp_path: Path):
    section = StudentDistillation(
        layers=(1,), epochs=6, batch_size=32, learning_rate=5e-3, patience=99
    )
    write_classifier_student(brought, data, section, tmp_path / "checkpoint", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 1
    teacher, student = quality(brought, data), quality(tmp_path, data)
    assert student["accuracy"] > teacher["accuracy"] - 0.1
