"""What a measurement ran on."""

import os
import platform
import subprocess
from pathlib import Path


def hardware_facts() -> dict[str, str]:
    """What a measurement ran on, in words: CPU, cores this process may use, memory, GPU, system."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "gpu": gpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name where the system tells it."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def gpu_model() -> str:
    """The first NVIDIA GPU's name, or "none"."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return next(iter(listed.stdout.splitlines()), "none")
