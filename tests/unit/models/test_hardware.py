import os
from pathlib import Path

import pytest

from models.hardware import cpu_model, gpu_model, hardware_facts


def test_the_hardware_is_named_in_words():
    facts = hardware_facts()
    assert set(facts) == {"cpu", "cores", "memory", "gpu", "system"}
    assert all(facts.values())
    assert int(facts["cores"]) == len(os.sched_getaffinity(0))


def test_the_cpu_is_named_as_the_system_names_it(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast CPU: v2\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Fast CPU: v2"
    assert cpu_model(tmp_path / "none")


@pytest.mark.parametrize(
    ("script", "gpu"),
    [
        ("echo 'NVIDIA H200'; echo 'NVIDIA H200'", "NVIDIA H200"),
        ("echo 'No devices were found'; exit 6", "none"),
        ("true", "none"),
        (None, "none"),
    ],
)
def test_the_gpu_is_named_by_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, gpu: str
):
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_model() == gpu
