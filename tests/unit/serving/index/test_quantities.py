import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import SettingsError
from serving.index.quantities import bytes_of, count_of, shards_of


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("5000", 5_000),
        ("100k", 100_000),
        ("29.3M", 29_300_000),
        (" 2 B ", 2 * 10**9),
        ("1g", 10**9),
    ],
)
def test_counts_are_read_as_people_write_them(words: str, count: int) -> None:
    assert count_of(words) == count


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("800MB", 800 * 10**6),
        ("16GB", 16 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("64 kib", 65_536),
        ("123", 123),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_read_as_people_write_them(words: str, size: int) -> None:
    assert bytes_of(words) == size


@pytest.mark.parametrize(
    "words", ["", "GB", "-1GB", "1.GB", "1,5GB", "1PB", "0", "0.1", "1e9", "x"]
)
def test_what_is_no_size_is_refused_with_an_example(words: str) -> None:
    with pytest.raises(SettingsError, match="such as 16GB"):
        bytes_of(words)


@pytest.mark.parametrize("words", ["1MB", "", "0k", "many"])
def test_what_is_no_count_is_refused_with_an_example(words: str) -> None:
    with pytest.raises(SettingsError, match=r"such as 29\.3M"):
        count_of(words)


@given(st.integers(1, 10**12))
def test_plain_numbers_are_what_they_say(number: int) -> None:
    assert count_of(str(number)) == bytes_of(str(number)) == number


@pytest.mark.parametrize(
    ("words", "shards"),
    [("0", (0,)), ("0,1", (0, 1)), ("0-3", (0, 1, 2, 3)), ("2, 0-1,1", (2, 0, 1))],
)
def test_shards_are_named_one_by_one_or_from_to_each_once(
    words: str, shards: tuple[int, ...]
) -> None:
    assert shards_of(words) == shards


@pytest.mark.parametrize("words", ["", "a", "0-", "-1", "0;1", "0,,1", "3-0", "0-3-5"])
def test_what_names_no_shards_is_refused(words: str) -> None:
    with pytest.raises(SettingsError, match="names no shards"):
        shards_of(words)
