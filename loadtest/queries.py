"""The texts that a load test sends."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import models
from loadtest.errors import QueriesError

QUESTIONS = Path(models.__file__).parent / "data" / "boolq" / "questions.jsonl.gz"


def load_queries(path: Path | None = None) -> list[str]:
    """The lines of a user's text file, or the questions that come with Farshore.

    Blank lines are skipped, because an empty text is not a query. Raises QueriesError when the file
    is missing, is not UTF-8 text or holds no query.
    """
    try:
        texts = _questions(QUESTIONS) if path is None else _lines(path)
    except FileNotFoundError as error:
        raise QueriesError(
            f"no queries at {error.filename}: name a text file with one query per line (--queries)"
        ) from error
    except (UnicodeDecodeError, gzip.BadGzipFile, ValueError, KeyError) as error:
        raise QueriesError(
            f"{path or QUESTIONS} cannot be read as queries ({error}): it must be UTF-8 text with "
            "one query per line"
        ) from error
    if not texts:
        raise QueriesError(f"{path or QUESTIONS} holds no query: write one per line")
    return texts


def sample_queries(texts: list[str], seed: int) -> Iterator[str]:
    """An endless stream of texts, each drawn uniformly; the same seed gives the same stream."""
    draw = random.Random(seed)
    while True:
        yield draw.choice(texts)


def _questions(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line)["question"] for line in stream if line.strip()]


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]
