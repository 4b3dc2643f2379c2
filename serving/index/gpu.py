"""Which shards are searched on a GPU, and what they take there: functions of values, before all loading.

No GPU is used unless it is asked for. Whoever runs a node knows what else the GPU is for; a shard that took
it because it was there would push out the models of an inference server, and would not say so.

Source: FAISS' faiss/gpu, without cuVS: GpuCloner.cpp, GpuIndexIVFPQ.cu, GpuIndexIVFScalarQuantizer.cu,
impl/FlatIndex.cu, impl/IVFFlat.cu, impl/IVFPQ.cu, impl/IVFBase.cu and StandardGpuResources.cpp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.manifest import Record
from serving.errors import DoesNotFitError, GpuError, SettingsError
from serving.index.footprint import mib
from serving.index.generation import Generation
from serving.index.layout import FLOAT_BYTES, ID_BYTES, Layout
from serving.index.quantities import bytes_of

Precision = Literal["fp32", "fp16"]
Devices = Literal["auto", "none"] | tuple[int, ...]
BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2}

MAX_RESERVE_BYTES = 1536 * 2**20  # FAISS takes no more, whatever it is told
DEFAULT_RESERVE = "1GB"
SHARED_MEMORY_BYTES = 48 * 2**10  # of a block, on every GPU that FAISS runs on
PQ_CODE_BYTES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
WARP = 32  # lists are padded to as many rows
LIST_BYTES = 2 * 256 + 3 * 8  # two allocations, rounded up; two pointers and a length
ADD_BYTES = 256 * 2**20  # of rows that FAISS converts to fp16 at a time
# A process' CUDA context and cuBLAS' workspace. Assumed, a few hundred MiB being usual: not measured.
CONTEXT_BYTES = 512 * 2**20

CPU = "or leave --gpu out"
NO_SUPPORT = (
    "FAISS cannot use GPUs here, being faiss-cpu, or faiss-gpu without its CUDA libraries: `make EXTRA=gpu` "
    f"on a host with an NVIDIA driver installs faiss-gpu in place of faiss-cpu; {CPU}"
)


class GpuSettings(Record):
    """What a node is told about GPUs."""

    devices: Devices = "none"
    """Numbers, over which shards are spread in turn; auto: all there are, if the index can go there."""
    precision: Precision = "fp32"
    """Of the rows of `flat` and of the lookup tables of `ivf-pq`."""
    reserve_bytes: int = bytes_of(DEFAULT_RESERVE)
    """Memory that each shard sets aside on its GPU for the intermediate results of searches."""


NO_GPU = GpuSettings()


class GpuUse(Record):
    """What one shard does with a GPU."""

    device: int
    """Its number, as CUDA counts with CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    precision: Precision
    reserve_bytes: int
    required: bool = True
    """Whether a shard that finds no room there is refused; else the CPU searches it."""


@dataclass(frozen=True)
class Found:
    """What a node has: whether its FAISS can use GPUs, and the free bytes of each by number."""

    supported: bool
    free_bytes: Mapping[int, int]


def settings_of(gpu: str, precision: Precision, reserve: str) -> GpuSettings:
    """The settings that a command line says. Raises SettingsError."""
    reserve_bytes = bytes_of(reserve)
    if reserve_bytes > MAX_RESERVE_BYTES:
        raise SettingsError(
            f"--gpu-reserve {reserve} is more than FAISS sets aside: {mib(MAX_RESERVE_BYTES)} MiB at most"
        )
    named: dict[str, Devices] = {"auto": "auto", "none": "none"}
    numbers = [number.strip() for number in gpu.split(",")]
    if gpu not in named and not all(number.isdecimal() for number in numbers):
        raise SettingsError(f"--gpu {gpu} cannot be read: write auto, none or numbers such as 0,1")
    devices = named[gpu] if gpu in named else tuple(dict.fromkeys(map(int, numbers)))
    return GpuSettings(devices=devices, precision=precision, reserve_bytes=reserve_bytes)


def uses_of(
    settings: GpuSettings, generation: Generation, rows: Sequence[int], found: Found
) -> list[GpuUse]:
    """What each shard, of so many `rows`, does with a GPU; not for the settings `none`.

    Raises GpuError when there is no such GPU or none that can take the layout, DoesNotFitError when the
    shards do not fit.
    """
    check_usable(generation.layout, generation.dim, settings.precision)
    devices = devices_of(settings, found)
    uses = [
        GpuUse(
            device=devices[number % len(devices)],
            precision=settings.precision,
            reserve_bytes=settings.reserve_bytes,
            required=settings.devices != "auto",
        )
        for number in range(len(rows))
    ]
    needs = [clone_bytes(generation, count, use) for count, use in zip(rows, uses, strict=True)]
    check_devices_fit(needs, uses, found.free_bytes)
    return uses


def devices_of(settings: GpuSettings, found: Found) -> tuple[int, ...]:
    """The GPUs to use, one at the least. Raises GpuError."""
    if not found.supported:
        raise GpuError(NO_SUPPORT)
    there = tuple(sorted(found.free_bytes))
    words = f"nvidia-smi and CUDA_VISIBLE_DEVICES show {', '.join(map(str, there)) or 'none'}"
    if not there:
        raise GpuError(
            f"there is no GPU ({words}): install the NVIDIA driver, give the container the GPU, {CPU}"
        )
    if isinstance(settings.devices, str):
        return there
    absent = [number for number in settings.devices if number not in there]
    if absent:
        raise GpuError(f"GPU {absent[0]} is not there ({words}): name one that is, {CPU}")
    return settings.devices


def check_usable(layout: Layout, dim: int, precision: Precision) -> None:
    """Raise GpuError, with what to do, unless FAISS has this layout on a GPU."""
    if layout.is_hnsw or layout.kind == "ivf-rabitq":
        raise GpuError(
            f"FAISS has no {layout.kind} on a GPU: build flat, ivf-flat, ivf-sq8 or ivf-pq, {CPU}"
        )
    if precision == "fp16" and layout.kind in ("ivf-flat", "ivf-sq8"):
        raise GpuError(
            f"fp16 would change nothing: on a GPU too FAISS keeps the codes of {layout.kind} as they are; "
            "leave --gpu-precision out"
        )
    if layout.kind == "ivf-sq8" and 2 * FLOAT_BYTES * dim >= SHARED_MEMORY_BYTES:
        raise GpuError(
            f"{dim} components are too many for ivf-sq8 on a GPU, which takes fewer than "
            f"{SHARED_MEMORY_BYTES // (2 * FLOAT_BYTES):,}: build flat or ivf-flat, {CPU}"
        )
    if layout.kind == "ivf-pq":
        most = SHARED_MEMORY_BYTES // (256 * BYTES[precision])
        possible = [size for size in PQ_CODE_BYTES if size <= most]
        if layout.code_bytes not in possible:
            raise GpuError(
                f"FAISS has no ivf-pq with {layout.code_bytes}-byte codes on a GPU in {precision}: build it "
                f"with --code-bytes {', '.join(map(str, possible))} (fp16 takes up to 96), {CPU}"
            )


def clone_bytes(generation: Generation, rows: int, use: GpuUse) -> int:
    """Bytes of a GPU that a copy of a shard's index takes, with what its searches set aside."""
    layout, dim = generation.layout, generation.dim
    if layout.kind != "flat":
        return ivf_bytes(layout, dim, rows) + use.reserve_bytes
    index = rows * (BYTES[use.precision] * dim + FLOAT_BYTES)  # a norm beside each row
    # Rows become fp16 on the GPU, a part at a time: that part, and what becomes of it.
    part = min(ADD_BYTES, FLOAT_BYTES * dim * rows)
    converting = part + part // 2 if use.precision == "fp16" else 0
    return index + max(use.reserve_bytes, converting)


def ivf_bytes(layout: Layout, dim: int, rows: int) -> int:
    """Bytes of inverted lists, their ids and centroids; each list but those of product codes is padded."""
    padding = 0 if layout.kind == "ivf-pq" else (WARP - 1) * layout.lists
    codes = layout.code_size_bytes(dim) * (rows + padding)
    centroids = layout.lists * FLOAT_BYTES * (dim + 1)
    codebooks = 2 * 256 * dim * FLOAT_BYTES if layout.kind == "ivf-pq" else 0  # also transposed
    return codes + ID_BYTES * rows + LIST_BYTES * layout.lists + centroids + codebooks


def check_devices_fit(
    needs: Sequence[int], uses: Sequence[GpuUse], free_bytes: Mapping[int, int]
) -> None:
    """Raise DoesNotFitError when the shards of a GPU need more than it has free.

    `needs` are those of clone_bytes. There must be room for one more: a compacted segment is copied while the
    one before it is still searched. The shards of a node compact in turn.
    """
    for device in sorted({use.device for use in uses}):
        here = [need for need, use in zip(needs, uses, strict=True) if use.device == device]
        needed = sum(here) + max(here) + CONTEXT_BYTES * len(here)
        what = f"{len(here)} shards, with room to compact one,"
        check_fits(what, needed, device, free_bytes[device])


def check_fits(what: str, needed: int, device: int, free: int) -> None:
    """Raise DoesNotFitError when `what` needs more bytes of a GPU than are free."""
    if needed > free:
        raise DoesNotFitError(
            f"{what} take {mib(needed)} MiB of GPU {device} and {mib(free)} are free: it is "
            f"{mib(needed - free)} MiB over; free it, name more GPUs, build with more shards or a smaller "
            f"layout, {CPU}"
        )
