"""The command line on a disk that is really full: a small file system of its own, mounted for one process."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from optimize import steps
from optimize.__main__ import main
from optimize.recipe import Recipe

ROOT = Path(__file__).resolve().parents[3]
# The next arguments: where a small file system is mounted, its size, and what then runs.
ON_SMALL_DISK = [
    *("unshare", "--map-root-user", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size="$1" tmpfs "$0" && shift && exec "$@"',
]

WRITER = """
import shutil
import sys
from functools import partial
from pathlib import Path

from optimize.__main__ import attempt
from optimize.steps import Workspace

def with_numpy(folder):
    import numpy
    numpy.save(folder / "vectors.npy", numpy.ones(2**20))

def with_safetensors(folder):
    import numpy
    from safetensors.numpy import save_file
    save_file({"weight": numpy.ones(2**20)}, folder / "model.safetensors")

def with_onnx_runtime(folder):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "model.onnx")
    onnxruntime.InferenceSession(sys.argv[3], options)

def copy(disk):
    shutil.copytree(Path(sys.argv[3]).parent, disk / "copied")

disk, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "copy":
    sys.exit(attempt(partial(copy, disk)))
workspace = Workspace(disk, lambda *_: None)
status = attempt(partial(workspace.step, "work", {}, globals()[kind]))
print("left:", [path.name for path in disk.iterdir()])
sys.exit(status)
"""


def on_small_disk(disk: Path, size: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python with a disk of that size at `disk`; skips where none can be mounted."""
    disk.mkdir()
    try:
        tried = subprocess.run([*ON_SMALL_DISK, disk, size, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare to mount a small disk with")
    if tried.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.strip()}")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*ON_SMALL_DISK, disk, size, sys.executable, *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )


@pytest.fixture
def large_graph(tmp_path: Path) -> Path:
    """A graph of 8 MiB."""
    sizes = {"x": [1], "y": [2**21]}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes.items())
    weight = numpy_helper.from_array(np.ones(2**21, dtype=np.float32), "w")
    add = helper.make_node("Add", ["x", "w"], ["y"])
    model = helper.make_model(
        helper.make_graph([add], "g", [x], [y], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 9
    path = tmp_path / "large/model.onnx"
    path.parent.mkdir()
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("kind", ["with_numpy", "with_safetensors", "with_onnx_runtime"])
def test_a_full_disk_is_said_whatever_was_writing_and_leaves_nothing_half_written(
    kind: str, large_graph: Path, tmp_path: Path
):
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    disk = tmp_path / "disk"
    done = on_small_disk(disk, "2m", script, disk, kind, large_graph)
    assert "error: the disk is full: free some space and run again" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert done.stdout.strip() == "left: []"


def test_a_disk_that_is_full_before_a_repository_is_copied_is_said_too(
    large_graph: Path, tmp_path: Path
):
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    disk = tmp_path / "disk"
    done = on_small_disk(disk, "2m", script, disk, "copy", large_graph)
    assert "error: the disk is full: free some space and run again" in done.stderr
    assert done.returncode == 1


def test_a_run_on_a_full_disk_ends_with_what_to_do(tiny_recipe: Recipe, tmp_path: Path):
    recipe, disk = tmp_path / "recipe.yaml", tmp_path / "disk"
    recipe.write_text(yaml.safe_dump(tiny_recipe.model_dump(mode="json")))
    places = [f"--{name}={disk / name}" for name in ("cache", "repository", "reports")]
    done = on_small_disk(disk, "64k", "-m", "optimize", "run", recipe, *places)
    assert "error: the disk is full: free some space and run again" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_any_other_trouble_with_files_is_not_taken_for_a_full_disk(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken_disk(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe.model_dump(mode="json")))
    monkeypatch.setattr(steps, "sync_tree", broken_disk)
    with pytest.raises(OSError, match="Input/output error"):
        main(["run", str(recipe), f"--cache={tmp_path / 'cache'}"])
