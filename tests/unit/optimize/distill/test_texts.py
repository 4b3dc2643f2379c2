from pathlib import Path

import pytest

from optimize.data.boolq import write_boolq
from optimize.data.folder import read_lines, read_texts
from optimize.distill.texts import folded, pieces_of, short_texts

ROOT = Path(__file__).resolve().parents[4]


def test_a_question_stays_as_it_is() -> None:
    assert short_texts(["is it so?"]) == ["is it so?"]


def test_a_passage_becomes_its_sentences_without_its_title() -> None:
    passage = "Cottage cheese -- Rennet speeds up the curdling. Does it last? Curd size is a size of chunks."
    assert short_texts([passage]) == [
        "Rennet speeds up the curdling.",
        "Curd size is a size of chunks.",
    ]


def test_an_empty_text_gives_no_piece() -> None:
    assert short_texts(["", "   ", "Title -- "]) == []


def test_each_piece_is_given_once_in_order() -> None:
    assert short_texts(["second one", "first one", "second one"]) == ["second one", "first one"]


def test_a_sentence_that_is_also_evaluated_is_left_out_whatever_its_case() -> None:
    kept = "Platinum was added in 1976 for albums."
    shared = "Gold was added in 1975 for  albums."
    evaluated = f"Another article -- {shared.upper()} Something else stands here too."
    assert short_texts([f"An article -- {shared} {kept}"], [evaluated]) == [kept]


def test_training_texts_and_evaluation_share_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # whose build/downloads has the package after the first time
    write_boolq(tmp_path)
    shipped = ROOT / "models/data/boolq"
    questions = [row["question"] for row in read_lines(shipped, "questions")]
    passages = [row["text"] for row in read_lines(shipped, "passages")]
    evaluated = [*questions, *passages]
    trained = {folded(text) for text in short_texts(read_texts(tmp_path, "training"), evaluated)}
    assert len(trained) > 30_000
    assert trained.isdisjoint(map(folded, evaluated))
    assert trained.isdisjoint(folded(piece) for text in evaluated for piece in pieces_of(text))
