"""Training texts as short as queries are: questions as they stand, passages cut into sentences."""

import re
from collections.abc import Iterable, Iterator

MIN_CHARACTERS = 20  # shorter pieces are headings and cut abbreviations
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
TITLE_MARK = " -- "  # "Title -- text"


def short_texts(texts: Iterable[str]) -> list[str]:
    """Each distinct piece once, in order."""
    return list(dict.fromkeys(piece for text in texts for piece in pieces_of(text)))


def pieces_of(text: str) -> Iterator[str]:
    """A text's sentences, without the title before them; a text of one sentence is itself."""
    body = text.split(TITLE_MARK, 1)[-1].strip()
    sentences = SENTENCE_END.split(body)
    if len(sentences) == 1:
        return iter([body] if body else [])
    return (sentence for sentence in sentences if len(sentence) >= MIN_CHARACTERS)
