"""Training texts as short as queries are: questions as they stand, passages cut into sentences."""

import re
from collections.abc import Iterable, Iterator

MIN_CHARACTERS = 20  # shorter pieces are headings and cut abbreviations
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
TITLE_MARK = " -- "  # "Title -- text"


def short_texts(texts: Iterable[str], evaluated: Iterable[str] = ()) -> list[str]:
    """Each distinct piece once, in order, without those that also stand in an evaluated text.

    A split by article is not enough for that: encyclopedias say some sentences in several articles.
    """
    known = {folded(piece) for text in evaluated for piece in pieces_of(text)}
    pieces = dict.fromkeys(piece for text in texts for piece in pieces_of(text))
    return [piece for piece in pieces if folded(piece) not in known]


def pieces_of(text: str) -> Iterator[str]:
    """A text's sentences, without the title before them; a text of one sentence is itself."""
    body = text.split(TITLE_MARK, 1)[-1].strip()
    sentences = SENTENCE_END.split(body)
    if len(sentences) == 1:
        return iter([body] if body else [])
    return (sentence for sentence in sentences if len(sentence) >= MIN_CHARACTERS)


def folded(text: str) -> str:
    """The text without differences that an uncased tokenizer does not see."""
    return " ".join(text.lower().split())
