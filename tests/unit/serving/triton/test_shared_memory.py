import subprocess
import sys
from pathlib import Path

from serving.triton.shared_memory import claimed_prefix, remove_stale_regions


def test_the_regions_of_a_launch_are_gone_after_it(tmp_path: Path) -> None:
    with claimed_prefix(tmp_path) as prefix:
        (tmp_path / f"{prefix}region").touch()
    assert list(tmp_path.iterdir()) == []


def test_the_regions_of_a_live_launch_and_of_strangers_stay(tmp_path: Path) -> None:
    (tmp_path / "stranger").touch()
    with claimed_prefix(tmp_path) as prefix:
        region = tmp_path / f"{prefix}region"
        region.touch()
        with claimed_prefix(tmp_path):
            pass
        assert region.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["stranger"]


def test_the_regions_of_a_killed_launch_are_removed_by_the_next(tmp_path: Path) -> None:
    killed = f"""
import os, signal
from pathlib import Path
from serving.triton.shared_memory import claimed_prefix
with claimed_prefix(Path({str(tmp_path)!r})) as prefix:
    Path({str(tmp_path)!r}, prefix + "region").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    remove_stale_regions(tmp_path)
    assert list(tmp_path.iterdir()) == []
