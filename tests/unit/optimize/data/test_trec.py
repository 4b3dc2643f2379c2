import zipfile
from pathlib import Path

import pytest

from optimize.data.trec import PATH_IN_PACKAGE, is_held_out, normalised, read_questions

LINES = """\
DESC:manner How did serfdom develop ?
desc:MANNER
HUM:ind Who wrote Hamlet ?
HUM:ind Who wrote Hamlet?
LOC:city What is the capital of Peru ?
LOC:other What is the capital of peru
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "questions.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(PATH_IN_PACKAGE, LINES.encode("latin-1"))
    return path


def test_repeated_questions_count_once_and_contradicted_ones_not_at_all(wheel: Path):
    assert read_questions(wheel) == {
        "How did serfdom develop ?": "DESC:manner",
        "Who wrote Hamlet ?": "HUM:ind",
    }


def test_how_a_question_is_written_does_not_decide_where_it_belongs():
    assert normalised("Who wrote  Hamlet ?") == normalised("who wrote hamlet")
    assert is_held_out("Who wrote  Hamlet ?") == is_held_out("who wrote hamlet")


def test_about_three_in_ten_are_held_out():
    held_out = sum(is_held_out(f"question number {n}") for n in range(2000))
    assert 500 < held_out < 700
