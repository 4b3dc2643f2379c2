"""GPUs as nvidia-smi tells of them."""

import logging
from pathlib import Path

import pytest

from serving.__main__ import index_options
from serving.__main__ import parse_arguments as gateway_arguments
from serving.errors import GpuError, SettingsError
from serving.index import gpu_devices
from serving.index.__main__ import parse_arguments
from serving.index.generation import read_generation
from serving.index.gpu import NO_GPU, GpuSettings
from serving.index.gpu_devices import (
    Device,
    faiss_has_gpus,
    free_by_number,
    gpu_uses,
    parse,
    visible,
)
from serving.index.node import NodeOrder, mounts_of
from serving.index.ray_fleet import FleetPlan
from serving.index.ray_plan import Ask, Slot
from serving.stack import placed

MIB = 2**20
TOLD = "0, GPU-aaa1, 81000\n1, GPU-aab2, 40000\n2, GPU-c, [N/A]\n3, GPU-d, 100\n"
LISTED = [Device(0, "GPU-aaa1", 81000 * MIB), Device(1, "GPU-aab2", 40000 * MIB)]
LISTED += [Device(3, "GPU-d", 100 * MIB)]

needs_no_gpu = pytest.mark.skipif(faiss_has_gpus(), reason="tells what happens without faiss-gpu")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that lists two."""
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '0, GPU-a, 81000\\n1, GPU-b, 40000\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_that_do_not_tell_what_is_free_are_left_out() -> None:
    assert parse(TOLD) == LISTED
    assert parse("No devices were found\n") == []


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (None, [0, 1, 3]),
        ("", []),
        ("1,0", [1, 0]),
        ("GPU-d, GPU-aab", [3, 1]),
        ("3,7,0", [3]),  # CUDA sees nothing after one that is not there
        ("-1,0", []),
        ("GPU-aa", []),  # two begin so
        ("MIG-GPU-aaa1/1/0", []),
    ],
)
def test_only_those_count_that_cuda_shows(names: str | None, numbers: list[int]) -> None:
    assert [device.number for device in visible(LISTED, names)] == numbers


@pytest.mark.usefixtures("two_gpus")
def test_what_is_free_is_asked_of_nvidia_smi_and_numbered_as_cuda_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert free_by_number() == {0: 81000 * MIB, 1: 40000 * MIB}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert free_by_number() == {0: 40000 * MIB}


def test_a_machine_without_nvidia_smi_has_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_by_number() == {}


def test_nothing_is_asked_when_no_gpu_is_wanted(
    flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(gpu_devices, "free_by_number")
    assert gpu_uses(NO_GPU, read_generation(flat), [10, 10]) == [None, None]


@needs_no_gpu
@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_asked_for_by_number_is_refused_without_faiss_gpu_before_anything_is_loaded(
    flat: Path, tmp_path: Path
) -> None:
    said = ["node", "--generation", str(flat), "--shards", "0", "--gpu", "0"]
    options = parse_arguments([*said, "--directory", str(tmp_path / "node")])
    with pytest.raises(GpuError, match=r"`make EXTRA=gpu` .* in place of faiss-cpu"):
        options.command(options)
    assert not (tmp_path / "node").exists()


@needs_no_gpu
@pytest.mark.usefixtures("two_gpus")
def test_an_index_behind_the_gateway_is_searched_on_the_gpu_that_was_asked_for(flat: Path) -> None:
    index = index_options(gateway_arguments(["--index", str(flat.parent.parent), "--gpu", "1"]))
    assert index is not None
    assert index.gpu == GpuSettings(devices=(1,))
    with pytest.raises(GpuError, match="`make EXTRA=gpu`"), placed(index):
        pass


@pytest.mark.parametrize("index", [[], ["--index", "placement.json"]])
def test_a_gpu_for_shards_that_do_not_run_here_is_refused(
    index: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("placement.json").touch()
    with pytest.raises(SettingsError, match="name its directory with --index"):
        index_options(gateway_arguments([*index, "--gpu", "0"]))


def test_every_node_on_ray_is_told_of_the_gpus(flat: Path) -> None:
    slot = Slot(group=0, replica=0, shards=(0,))
    generation, gpu = read_generation(flat), GpuSettings(devices=(0,), precision="fp16")
    ask = Ask(memory_bytes=2**30, cpus=1, gpus=1)
    plan = FleetPlan(flat.parent.parent, flat, generation, (slot,), ask, 1, gpu)
    assert NodeOrder.model_validate_json(plan.order(slot).model_dump_json()).gpu == gpu


def test_gpus_on_ray_have_to_be_reserved(flat: Path) -> None:
    options = parse_arguments(["ray-serve", str(flat.parent.parent), "--gpu", "0"])
    with pytest.raises(SettingsError, match="say --gpus-per-node as well"):
        options.command(options)


@needs_no_gpu
def test_auto_goes_on_with_the_cpu_and_says_why(
    flat: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    order = NodeOrder(
        generation=flat,
        shards=(0,),
        directory=tmp_path,
        memory_bytes=2**30,
        gpu=GpuSettings(devices="auto"),
    )
    with caplog.at_level(logging.WARNING):
        (mount,) = mounts_of(order)
    assert mount.gpu is None
    assert "no GPU is used: FAISS cannot use GPUs here" in caplog.text


@pytest.mark.usefixtures("two_gpus")
def test_shards_get_their_gpus_when_all_is_there(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_devices, "faiss_has_gpus", lambda: True)
    order = NodeOrder(
        generation=flat,
        shards=(0,),
        directory=tmp_path,
        memory_bytes=2**30,
        gpu=GpuSettings(devices=(1,), precision="fp16"),
    )
    (mount,) = mounts_of(order)
    assert mount.gpu is not None
    assert (mount.gpu.device, mount.gpu.precision) == (1, "fp16")
