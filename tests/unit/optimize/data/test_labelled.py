import gzip
import json
from pathlib import Path

import pytest

from optimize.data.labelled import read_labelled
from optimize.errors import SourceError
from optimize.sections import Evaluation, FolderData

Rows = list[dict[str, str | None]]


def rows(count: int, classes: int = 2) -> Rows:
    return [{"text": f"text {n}", "label": f"class {n % classes}"} for n in range(count)]


def folder_of(path: Path, train: Rows, test: Rows) -> Path:
    for name, content in (("train", train), ("test", test), ("calibration", train[:4])):
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (path / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (path / "PROVENANCE.json").write_text(json.dumps({"origin": "made up", "licence": "none"}))
    return path


def evaluation(folder: Path, **limits: int) -> Evaluation:
    return Evaluation(data=FolderData(folder=folder), **limits)


def test_labels_become_rows_of_their_names(tmp_path: Path):
    folder = folder_of(tmp_path, rows(60), rows(40))
    data = read_labelled(folder, evaluation(folder))
    assert data.label_names == ["class 0", "class 1"]
    assert data.labels.tolist() == [0, 1] * 20
    assert data.calibration == ["text 0", "text 1", "text 2", "text 3"]


def test_texts_without_a_label_are_counted(tmp_path: Path):
    folder = folder_of(tmp_path, [*rows(58), {"text": "a", "label": None}, {"text": "b"}], rows(40))
    with pytest.raises(SourceError, match="2 of 60 texts have no label: label them"):
        read_labelled(folder, evaluation(folder))


def test_one_class_is_nothing_to_learn(tmp_path: Path):
    folder = folder_of(tmp_path, rows(60, classes=1), rows(40, classes=1))
    with pytest.raises(SourceError, match="every training text has the label 'class 0'"):
        read_labelled(folder, evaluation(folder))


def test_a_class_that_is_only_tested_is_refused(tmp_path: Path):
    folder = folder_of(tmp_path, rows(60), rows(40, classes=3))
    with pytest.raises(SourceError, match="labels class 2 are tested but never trained"):
        read_labelled(folder, evaluation(folder))


def test_too_few_texts_are_not_enough_data(tmp_path: Path):
    folder = folder_of(tmp_path, rows(60), rows(40))
    wanted = evaluation(folder, min_questions=100)
    assert (
        read_labelled(folder, wanted).shortage(wanted)
        == "40 texts evaluated, the recipe asks for 100"
    )


def test_a_rare_class_is_not_enough_data(tmp_path: Path):
    test = [*rows(40, classes=1), {"text": "rare", "label": "class 1"}]
    folder = folder_of(tmp_path, rows(60), test)
    wanted = evaluation(folder, min_questions=10, min_per_class=5)
    shortage = read_labelled(folder, wanted).shortage(wanted)
    assert shortage is not None
    assert "1 texts of class class 1 evaluated, the recipe asks for 5" in shortage


def test_every_class_with_enough_texts_is_a_segment(tmp_path: Path):
    test = [*rows(80), *({"text": f"few {n}", "label": "class 2"} for n in range(5))]
    folder = folder_of(tmp_path, rows(60, classes=3), test)
    segments = read_labelled(folder, evaluation(folder)).segments
    assert {"class class 0", "class class 1"} <= segments.keys()
    assert "class class 2" not in segments
