import itertools

import pytest

from loadtest.errors import QueriesError
from loadtest.queries import load_queries, sample_queries


def test_the_questions_that_come_with_farshore_are_sent_by_default():
    questions = load_queries()
    assert len(questions) > 1_000
    assert all(question.strip() for question in questions)


def test_a_text_file_holds_one_query_per_line(tmp_path):
    path = tmp_path / "queries.txt"
    path.write_text("erste Frage\n\n  zweite Frage \n", encoding="utf-8")
    assert load_queries(path) == ["erste Frage", "zweite Frage"]


def test_the_same_seed_sends_the_same_texts():
    texts = [f"text {number}" for number in range(100)]
    first, second = (list(itertools.islice(sample_queries(texts, 3), 50)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(sample_queries(texts, 4), 50))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no queries at"), (b"\n \n", "holds no query"), (b"\xff\xfe\xfa", "cannot be read")],
)
def test_an_unusable_file_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "queries.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(QueriesError, match=reason):
        load_queries(path)
