import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optimize.steps import Workspace

ROOT = Path(__file__).resolve().parents[3]

# Makes one step; between its two files it says "inside" and waits for a line.
MAKER = """
import sys
from pathlib import Path
from optimize.steps import Workspace

def make(directory):
    (directory / "first").write_text("1")
    print("inside", flush=True)
    sys.stdin.readline()
    (directory / "folder").mkdir()
    (directory / "folder/second").write_text("2")

workspace = Workspace(Path(sys.argv[1]), lambda *_: None)
workspace.remove_leftovers()
step = workspace.step("work", {}, make)
print(step.digest, step.directory, flush=True)
"""


class Maker:
    """A step that counts how often it is made."""

    def __init__(self, content: str = "content") -> None:
        self.content = content
        self.times = 0

    def make(self, directory: Path) -> None:
        self.times += 1
        (directory / "file").write_text(self.content)


@pytest.fixture
def announced() -> list[tuple[str, bool]]:
    return []


@pytest.fixture
def workspace(tmp_path: Path, announced: list[tuple[str, bool]]) -> Workspace:
    return Workspace(tmp_path / "cache", lambda name, reused: announced.append((name, reused)))


def entries(root: Path) -> list[str]:
    """What a workspace holds beside its lock."""
    return sorted(path.name for path in root.iterdir() if path.name != ".lock")


@contextmanager
def maker(script: Path, root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is inside of its step."""
    script.write_text(MAKER)
    process = subprocess.Popen(
        [sys.executable, script, root],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "inside\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Let the process go on; its digest and its directory."""
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().split()


def test_a_second_call_reuses_the_first(workspace: Workspace, announced: list[tuple[str, bool]]):
    work = Maker()
    first = workspace.step("work", {"a": 1}, work.make)
    second = workspace.step("work", {"a": 1}, work.make)
    assert work.times == 1
    assert (first.digest, first.directory) == (second.digest, second.directory)
    assert (first.reused, second.reused) == (False, True)
    assert announced == [("work", False), ("work", True)]


@pytest.mark.parametrize(("name", "inputs"), [("work", {"a": 2}), ("other", {"a": 1})])
def test_another_input_or_name_is_another_step(
    workspace: Workspace, name: str, inputs: dict[str, int]
):
    work = Maker()
    first = workspace.step("work", {"a": 1}, work.make)
    second = workspace.step(name, inputs, work.make)
    assert work.times == 2
    assert first.directory != second.directory
    assert first.digest == second.digest  # which is of the files alone


def test_other_code_makes_the_step_again(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    module = tmp_path / "maker_module.py"
    monkeypatch.syspath_prepend(tmp_path)
    module.write_text("def make(directory):\n    (directory / 'file').write_text('1')\n")
    from maker_module import make

    first = workspace.step("work", {}, make)
    assert workspace.step("work", {}, make).reused
    module.write_text(module.read_text().replace("'1'", "'2'"))
    again = workspace.step("work", {}, make)
    assert not again.reused
    assert again.directory != first.directory


@pytest.mark.parametrize(
    "spoil",
    [
        lambda step: (step / "file").write_text("tampered"),
        lambda step: (step / "file").unlink(),
        lambda step: (step / "undeclared").write_text(""),
        lambda step: (step / "step.json").unlink(),
        lambda step: (step / "step.json").write_text("{"),
        lambda step: (step / "step.json").write_bytes(b"\xff\xfe"),
    ],
    ids=["changed", "missing", "undeclared", "no record", "cut record", "damaged record"],
)
def test_a_damaged_step_is_made_again(workspace: Workspace, spoil: Callable[[Path], object]):
    work = Maker()
    first = workspace.step("work", {}, work.make)
    spoil(first.directory)
    second = workspace.step("work", {}, work.make)
    assert (work.times, second.reused, second.digest) == (2, False, first.digest)
    assert {path.name for path in second.directory.iterdir()} == {"file", "step.json"}


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_step_that_fails_leaves_nothing(workspace: Workspace, stop: type[BaseException]):
    def make(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise stop

    with pytest.raises(stop):
        workspace.step("work", {}, make)
    assert entries(workspace.root) == []


def test_a_killed_step_is_not_finished_and_its_rerun_gives_the_same_digest(tmp_path: Path):
    script = tmp_path / "maker.py"
    with maker(script, tmp_path / "undisturbed") as process:
        undisturbed, _ = finish(process)
    root = tmp_path / "killed"
    with maker(script, root) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (leftover,) = entries(root)
    assert leftover.startswith(".work-")
    with maker(script, root) as process:
        assert leftover not in entries(root)
        digest, directory = finish(process)
    assert digest == undisturbed
    assert entries(root) == [Path(directory).name]


def test_the_leftovers_of_a_process_that_lives_are_its_own(tmp_path: Path):
    with maker(tmp_path / "maker.py", tmp_path / "cache") as process:
        Workspace(tmp_path / "cache", lambda *_: None).remove_leftovers()
        digest, directory = finish(process)
    assert digest
    assert (Path(directory) / "first").read_text() == "1"


def test_two_processes_that_make_one_step_both_get_it_whole(tmp_path: Path):
    script, root = tmp_path / "maker.py", tmp_path / "cache"
    with maker(script, root) as one, maker(script, root) as other:
        digest, directory = finish(one)
        opened = (Path(directory) / "folder/second").stat().st_ino
        assert finish(other) == [digest, directory]
        # what the first one has opened meanwhile is still there and the same
        assert (Path(directory) / "folder/second").stat().st_ino == opened
    assert entries(root) == [Path(directory).name]
