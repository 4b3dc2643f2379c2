from pathlib import Path

import pytest

from optimize.data import compress
from optimize.errors import SourceError
from optimize.evaluation import evaluation_digests, read_evaluation

LINES = {
    "questions": [
        '{"question": "second?", "passage_id": "b"}',
        '{"question": "first?", "passage_id": "a"}',
    ],
    "passages": ['{"id": "a", "text": "A -- one"}', '{"id": "b", "text": "B -- two"}'],
    "calibration": ['{"text": "a text"}'],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, lines in LINES.items():
        (tmp_path / f"{name}.jsonl.gz").write_bytes(compress(lines))
    return tmp_path


def test_every_question_points_at_the_row_of_its_passage(data: Path):
    evaluation = read_evaluation(data)
    assert evaluation.questions == ["second?", "first?"]
    assert [evaluation.passages[row] for row in evaluation.relevant] == ["B -- two", "A -- one"]
    assert evaluation.calibration == ["a text"]


def test_a_question_without_its_passage_is_refused(data: Path):
    (data / "passages.jsonl.gz").write_bytes(compress(LINES["passages"][:1]))
    with pytest.raises(SourceError, match=r"1 questions name a passage that is not there \(b\)"):
        read_evaluation(data)


def test_missing_data_is_refused(tmp_path: Path):
    with pytest.raises(SourceError, match=r"no evaluation data at .*correct evaluation\.data"):
        read_evaluation(tmp_path / "nowhere")


WHOLE = compress(LINES["passages"])


@pytest.mark.parametrize(
    "content",
    [WHOLE[:-12], WHOLE[:12] + b"\0\0\0\0" + WHOLE[16:], b"no gzip", compress(["{"])],
    ids=["cut", "overwritten", "not gzip", "not json"],
)
def test_damaged_data_is_refused(data: Path, content: bytes):
    (data / "passages.jsonl.gz").write_bytes(content)
    with pytest.raises(SourceError, match=r"is damaged .*: restore it or run `make data`"):
        read_evaluation(data)


def test_other_data_has_other_digests(data: Path):
    before = evaluation_digests(data)
    (data / "calibration.jsonl.gz").write_bytes(compress(["{}"]))
    after = evaluation_digests(data)
    assert before.keys() == after.keys() == set(LINES)
    assert {name for name in before if before[name] != after[name]} == {"calibration"}


def test_the_origin_and_the_licence_are_told_or_said_to_be_unknown(data: Path):
    assert "origin and licence unknown" in read_evaluation(data).provenance
    (data / "PROVENANCE.json").write_text(
        '{"origin": "a study", "package": "p==1", "path": "p/x", "licence": "MIT"}'
    )
    assert read_evaluation(data).provenance == "a study; p==1 p/x; MIT"


@pytest.mark.parametrize("content", ["{", "[]", '{"origin": "a study"}'])
def test_a_damaged_provenance_is_named(data: Path, content: str):
    (data / "PROVENANCE.json").write_text(content)
    with pytest.raises(SourceError, match=r"PROVENANCE\.json cannot be read"):
        read_evaluation(data)
