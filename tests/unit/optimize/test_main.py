import errno
from pathlib import Path

import pytest
import yaml

from optimize import steps
from optimize.__main__ import main
from optimize.recipe import Recipe


def full_disk(_: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe.model_dump(mode="json")))
    places = [f"--{name}={tmp_path / name}" for name in ("cache", "repository", "reports")]
    monkeypatch.setattr(steps, "sync_tree", full_disk)
    assert main(["run", str(recipe), *places]) == 1
    assert "the disk is full: free some space and run again" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "cache").iterdir()] == []
    assert not (tmp_path / "repository").exists()


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
