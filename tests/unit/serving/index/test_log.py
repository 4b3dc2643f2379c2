import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import CorruptIndexError
from serving.index.log import MAGIC, Change, Log, create, encode, read_log
from serving.index.metric import Ids, Vectors

INT64 = st.integers(-(2**63), 2**63 - 1)
NOTHING: Vectors = np.empty((0, 0), np.float32)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Any change that the format can hold, NaN and infinite components included."""
    ids = np.array(draw(st.lists(INT64, max_size=5)), dtype=np.int64)
    sequence, version_ns = draw(INT64), draw(INT64)
    if draw(st.booleans()):
        return Change("delete", sequence, version_ns, ids, NOTHING)
    dim = draw(st.integers(1, 6))
    count = len(ids) * dim
    components = draw(st.lists(st.floats(width=32), min_size=count, max_size=count))
    vectors = np.array(components, dtype=np.float32).reshape(len(ids), dim)
    return Change("upsert", sequence, version_ns, ids, vectors)


def upsert(sequence: int, ids: list[int], dim: int = 4) -> Change:
    vectors = np.arange(1, len(ids) * dim + 1, dtype=np.float32).reshape(len(ids), dim)
    return Change("upsert", sequence, 1_000 + sequence, np.array(ids), vectors)


def delete(sequence: int, ids: list[int]) -> Change:
    return Change("delete", sequence, 1_000 + sequence, np.array(ids), NOTHING)


def write(path: Path, written: list[Change]) -> None:
    log = Log(path)
    log.append_all(written)
    log.close()


def as_values(change: Change) -> tuple[object, ...]:
    ids: Ids = change.ids
    vectors = change.vectors.tobytes() if change.operation == "upsert" else b""
    return change.operation, change.sequence, change.version_ns, ids.tolist(), vectors


def contents(path: Path) -> list[tuple[object, ...]]:
    return [as_values(change) for change in read_log(path)]


@given(batches=st.lists(st.lists(changes(), max_size=4), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_written_is_read_again_bit_for_bit(
    tmp_path: Path, batches: list[list[Change]]
) -> None:
    path = tmp_path / "log"
    path.unlink(missing_ok=True)
    for batch in batches:  # each as by a process of its own
        write(path, batch)
    expected = [as_values(change) for batch in batches for change in batch]
    assert contents(path) == expected if batches else not path.exists()


def test_a_new_log_is_empty_and_nothing_else_is_left_beside_it(tmp_path: Path) -> None:
    Log(tmp_path / "log").close()
    assert contents(tmp_path / "log") == []
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


def test_a_last_record_cut_at_any_byte_is_cut_off_and_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    kept, torn, following = upsert(1, [1, 2]), upsert(2, [3, 4, 5]), delete(3, [1])
    write(path, [kept, torn])
    whole = path.read_bytes()
    start = len(whole) - len(encode(torn))
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        assert contents(path) == [as_values(kept)]
        write(path, [following])
        assert contents(path) == [as_values(kept), as_values(following)]
        assert path.stat().st_size == start + len(encode(following))


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_changed_byte_anywhere_in_a_record_is_refused_with_its_place(
    tmp_path: Path, mask: int
) -> None:
    path = tmp_path / "log"
    written = [upsert(1, [1, 2]), delete(2, [1]), upsert(3, [7])]
    write(path, written)
    whole = path.read_bytes()
    start = len(MAGIC)
    for change in written:
        end = start + len(encode(change))
        words = re.escape(f"{path} is damaged at byte {start}:")
        for at in range(start, end):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            with pytest.raises(CorruptIndexError, match=words):
                list(read_log(path))
            with pytest.raises(CorruptIndexError, match=words):
                Log(path)
        start = end
    assert start == len(whole)


def test_a_changed_byte_in_the_header_is_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, [upsert(1, [1])])
    whole = path.read_bytes()
    for at in range(len(MAGIC)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptIndexError, match=re.escape(str(path))):
            Log(path)


def test_a_refused_log_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, [upsert(1, [1]), upsert(2, [2])])
    damaged = bytearray(path.read_bytes())
    damaged[len(MAGIC) + 20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptIndexError):
        Log(path)
    assert path.read_bytes() == damaged


def test_what_the_refusal_advises_gives_up_the_damaged_end_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    kept = upsert(1, [1])
    write(path, [kept, upsert(2, [2])])
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptIndexError) as refused:
        Log(path)
    command = re.search("run `(truncate .*)`", str(refused.value))
    assert command
    subprocess.run(command[1].split(), check=True)
    assert contents(path) == [as_values(kept)]


@pytest.mark.parametrize("zeros", [1, 15, 16, 17, 4096])
def test_zeros_behind_the_last_record_are_no_damage(tmp_path: Path, zeros: int) -> None:
    path = tmp_path / "log"
    kept, following = upsert(1, [1]), upsert(2, [2])
    write(path, [kept])
    with path.open("ab") as file:
        file.write(bytes(zeros))
    assert contents(path) == [as_values(kept)]
    write(path, [following])
    assert contents(path) == [as_values(kept), as_values(following)]


def test_a_record_behind_zeros_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, [upsert(1, [1])])
    with path.open("ab") as file:
        file.write(bytes(64) + encode(upsert(2, [2])))
    with pytest.raises(CorruptIndexError, match="damaged at byte"):
        Log(path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from serving.index.log import Change, Log

def upsert(sequence, count):
    return Change("upsert", sequence, 0, np.arange(count), np.ones((count, 8), np.float32))

path = Path(sys.argv[1])
log = Log(path)
log.append_all([upsert(1, 4)])
before = path.read_bytes()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, hard))
for batch in ([upsert(2, 500)], [upsert(2, 4), upsert(3, 500)]):
    try:
        log.append_all(batch)
    except OSError:
        assert path.read_bytes() == before, "something of a refused write is left"
    else:
        raise AssertionError("the write was not refused")
log.append_all([upsert(2, 2)])  # for less there is room
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.append_all([upsert(3, 500)])
"""


def test_a_write_that_the_disk_refuses_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", FULL_DISK, path], check=True)
    assert [(c.sequence, len(c.ids)) for c in read_log(path)] == [(1, 4), (2, 2), (3, 500)]


def test_creating_a_log_over_what_a_crash_left_gives_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / ".log.tmp").write_bytes(b"FARS")
    create(tmp_path / "log")
    assert contents(tmp_path / "log") == []
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]
