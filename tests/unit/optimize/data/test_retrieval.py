from pathlib import Path

import pytest

from optimize.data import folder_digests
from optimize.data.boolq import compress
from optimize.data.retrieval import Retrieval, read_retrieval
from optimize.errors import SourceError
from optimize.sections import Evaluation, FolderData

LINES = {
    "questions": [
        '{"question": "second?", "passage_id": "b"}',
        '{"question": "first?", "passage_id": "a"}',
    ],
    "passages": ['{"id": "a", "text": "A -- one"}', '{"id": "b", "text": "B -- two"}'],
    "calibration": ['{"text": "a text"}'],
}


def read_evaluation(folder: Path, **needed: int) -> Retrieval:
    return read_retrieval(folder, Evaluation(data=FolderData(folder=folder), **needed))


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
    before = folder_digests(data)
    (data / "calibration.jsonl.gz").write_bytes(compress(["{}"]))
    after = folder_digests(data)
    assert before.keys() == after.keys() == {f"{name}.jsonl.gz" for name in LINES}
    assert {name for name in before if before[name] != after[name]} == {"calibration.jsonl.gz"}


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


def test_as_many_questions_are_read_as_the_recipe_wants(data: Path):
    assert read_evaluation(data, max_questions=1).questions == ["second?"]


def test_questions_are_reported_apart_by_length_and_by_their_own_segment(data: Path):
    rows = [
        '{"question": "second?", "passage_id": "b", "segment": "short"}',
        '{"question": "' + "word " * 9 + '", "passage_id": "a"}',
    ]
    (data / "questions.jsonl.gz").write_bytes(compress(rows))
    segments = read_evaluation(data).segments
    found = {name: rows.tolist() for name, rows in segments.items()}
    assert found == {"up to 8 words": [0], "9 to 10 words": [1], "short": [0]}


@pytest.mark.parametrize(
    ("needed", "shortage"),
    [
        ({"min_questions": 2, "min_passages": 2}, None),
        ({"min_questions": 3}, "2 questions evaluated, the recipe asks for 3"),
        (
            {"min_questions": 2, "min_passages": 3},
            "2 passages evaluated, the recipe asks for 3",
        ),
    ],
)
def test_a_shortage_of_data_is_told_in_numbers(
    data: Path, needed: dict[str, int], shortage: str | None
):
    evaluation = Evaluation(data=FolderData(folder=data), **needed)
    assert read_retrieval(data, evaluation).shortage(evaluation) == shortage
