import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.data.boolq import (
    CALIBRATION_QUESTIONS,
    Judgement,
    Split,
    build_data,
    compress,
    split_by_article,
    text_id,
)

ROOT = Path(__file__).resolve().parents[4]
BOOLQ = ROOT / "models/data/boolq"

# Few titles, questions and texts, written in different ways, so that they meet again and again.
TITLES = st.builds(
    lambda name, case, suffix: getattr(name, case)() + suffix,
    st.sampled_from([f"Article {number}" for number in range(12)]),
    st.sampled_from(["upper", "lower", "title"]),
    st.sampled_from(["", " (film)", " (disambiguation)"]),
)
PASSAGES = st.builds("{} -- {}".format, TITLES, st.sampled_from(["one text", "another text"]))
QUESTIONS = st.builds(
    lambda number, case: getattr(f"is it true of {number}", case)(),
    st.integers(0, 40),
    st.sampled_from(["upper", "lower"]),
)
JUDGEMENTS = st.lists(st.builds(Judgement, QUESTIONS, PASSAGES), min_size=1, max_size=80)


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def title_of(passage: str) -> str:
    """The article without the case and the closing bracket of its title."""
    return passage.split(" -- ")[0].partition(" (")[0].strip().lower()


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data built anew from its pinned package, training texts included."""
    directory = tmp_path_factory.mktemp("rebuilt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # whose build/downloads has the package after the first time
        build_data(directory)
    return directory


def test_building_the_data_again_gives_the_committed_files(rebuilt: Path):
    for name in ("questions", "passages", "calibration"):
        assert read_rows(rebuilt / f"{name}.jsonl.gz") == read_rows(BOOLQ / f"{name}.jsonl.gz")
    assert (rebuilt / "PROVENANCE.json").read_bytes() == (BOOLQ / "PROVENANCE.json").read_bytes()


def test_nothing_evaluated_is_calibrated_or_trained_on(rebuilt: Path):
    evaluated = read_rows(BOOLQ / "passages.jsonl.gz")
    asked = {row["question"].lower() for row in read_rows(BOOLQ / "questions.jsonl.gz")}
    calibration = [row["text"] for row in read_rows(BOOLQ / "calibration.jsonl.gz")]
    training = [row["text"] for row in read_rows(rebuilt / "training.jsonl.gz")]
    seen = calibration + training
    assert len(evaluated) > 5000
    assert len(training) > 10_000
    assert not {row["id"] for row in evaluated} & {text_id(text) for text in seen}
    assert not {title_of(row["text"]) for row in evaluated} & titles_of(seen)
    assert not {body_of(row["text"]) for row in evaluated} & {body_of(text) for text in seen}
    assert not asked & {text.lower() for text in seen}
    assert not set(calibration) & set(training)


def body_of(passage: str) -> str:
    """What stands after the title."""
    return passage.split(" -- ")[-1].strip().lower()


def titles_of(texts: list[str]) -> set[str]:
    """The articles of the passages among the texts; a question has none."""
    return {title_of(text) for text in texts if " -- " in text}


@given(JUDGEMENTS)
def test_no_article_and_no_question_lies_on_both_sides(judgements: list[Judgement]):
    split = split_by_article(judgements)
    seen = split.calibration + split.training
    assert not {title_of(row["text"]) for row in split.passages} & titles_of(seen)
    assert not {body_of(row["text"]) for row in split.passages} & {body_of(text) for text in seen}
    assert not {q["question"].lower() for q in split.questions} & {text.lower() for text in seen}
    assert not {row["id"] for row in split.passages} & {text_id(text) for text in seen}


@given(JUDGEMENTS)
def test_every_judgement_lands_somewhere_and_every_question_has_its_passage(
    judgements: list[Judgement],
):
    split = split_by_article(judgements)
    text_of = {row["id"]: row["text"] for row in split.passages}
    evaluated = {(q["question"], text_of[q["passage_id"]]) for q in split.questions}
    trained = set(split.training)
    bodies = {body_of(text) for text in text_of.values()}
    for judgement in judgements:
        is_evaluated = (judgement.question, judgement.passage) in evaluated
        is_trained = judgement.passage in trained
        under_two_titles = not is_evaluated and body_of(judgement.passage) in bodies
        assert [is_evaluated, is_trained, under_two_titles].count(True) == 1


def test_both_sides_get_articles_and_calibration_takes_its_number():
    judgements = [Judgement(f"question {n}", f"Article {n} -- text") for n in range(2000)]
    split: Split = split_by_article(judgements)
    assert 0.40 < len(split.passages) / len(judgements) < 0.50
    assert len(split.calibration) == CALIBRATION_QUESTIONS


def test_the_order_of_judgements_does_not_decide_their_side():
    judgements = [Judgement(f"question {n}", f"Article {n} -- text") for n in range(200)]
    forwards, backwards = split_by_article(judgements), split_by_article(judgements[::-1])
    assert set(forwards.training) == set(backwards.training)
    assert forwards.calibration == backwards.calibration


def test_the_same_lines_compress_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch):
    lines = ["one", "zwölf"]
    first = compress(lines)
    monkeypatch.setattr("time.time", lambda: 0.0)  # gzip would write the time into its header
    assert compress(lines) == first
    assert gzip.decompress(first).decode() == "one\nzwölf\n"
