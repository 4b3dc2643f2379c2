"""The GPUs of this machine and what is free on them, as nvidia-smi tells, and which shards use them.

Not FAISS: its Python module does not say how much of a GPU is free. Asking nvidia-smi takes none of it.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.errors import DoesNotFitError, GpuError
from serving.index.generation import Generation
from serving.index.gpu import Found, GpuSettings, GpuUse, uses_of

log = logging.getLogger(__name__)

MIB = 2**20
QUERY = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
# In a process of its own: a node has no other use for FAISS and no room for it (footprint.SERVER_BYTES).
SUPPORT = [sys.executable, "-c", "from faiss import StandardGpuResources"]
TIMEOUT_S = 30  # a driver that is not kept loaded takes seconds


@dataclass(frozen=True)
class Device:
    """A GPU as nvidia-smi lists it: by the place on the PCI bus."""

    number: int
    uuid: str
    free_bytes: int


def gpu_uses(
    settings: GpuSettings, generation: Generation, rows: Sequence[int]
) -> list[GpuUse] | list[None]:
    """What each shard, of so many `rows`, does with a GPU of this machine; None: nothing.

    Raises GpuError or DoesNotFitError for GPUs asked for by number; with `auto` the reason is logged.
    """
    if settings.devices == "none":
        return [None] * len(rows)
    try:
        return uses_of(settings, generation, rows, Found(faiss_has_gpus(), free_by_number()))
    except (GpuError, DoesNotFitError) as error:
        if settings.devices != "auto":
            raise
        log.warning("no GPU is used: %s", error)
        return [None] * len(rows)


def faiss_has_gpus() -> bool:
    """Whether the FAISS that is installed is built with GPUs and finds its CUDA libraries."""
    return subprocess.run(SUPPORT, capture_output=True, check=False).returncode == 0


def free_by_number() -> dict[int, int]:
    """Free bytes of each GPU that this process may use, by the number that CUDA gives it; none: no GPU."""
    try:
        told = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return {}
    seen = visible(parse(told.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return {number: device.free_bytes for number, device in enumerate(seen)}


def parse(told: str) -> list[Device]:
    """Lines of number, UUID and free MiB; those of GPUs that do not tell are left out."""
    found = []
    for line in told.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 3 and words[0].isdecimal() and words[2].isdecimal():
            found.append(Device(int(words[0]), words[1], int(words[2]) * MIB))
    return found


def visible(listed: Sequence[Device], names: str | None) -> list[Device]:
    """Those that CUDA_VISIBLE_DEVICES names, in its order; None: all.

    Numbers or beginnings of UUIDs. As CUDA does, nothing after one that is not there counts; nor does a
    part of a GPU (MIG), of which nvidia-smi does not tell what is free.
    """
    if names is None:
        return list(listed)
    by_number: Mapping[str, Device] = {str(device.number): device for device in listed}
    seen: list[Device] = []
    for name in (name.strip() for name in names.split(",")):
        matching = [device for device in listed if name and device.uuid.startswith(name)]
        device = by_number.get(name, matching[0] if len(matching) == 1 else None)
        if device is None:
            break
        seen.append(device)
    return seen
