"""FP32 graph -> INT8 graph: dynamic, one scale per output channel, laid out for this CPU's instructions."""

import platform
from pathlib import Path
from typing import Literal

from onnxruntime.quantization import QuantType, quantize_dynamic

from optimize.quantize.graph import FLOAT, notes_of, quiet, refuse_unusable

Isa = Literal["avx2", "avx512", "avx512_vnni", "arm64"]


def quantize_int8(fp32: Path, isa: Isa, embedding_table: bool, destination: Path) -> None:
    """Write `destination`/model.onnx with INT8 weights; activations get their scale at run time."""
    refuse_unusable(fp32)
    with quiet():
        quantize_dynamic(
            fp32,
            destination / "model.onnx",
            op_types_to_quantize=["MatMul", "Attention", *(["Gather"] if embedding_table else [])],
            per_channel=True,
            weight_type=weight_type(isa),
            extra_options={
                "DefaultTensorType": FLOAT
            },  # fused graphs leave types in between unsaid
        )
    notes_of(destination, f"dynamic INT8 for {isa}: activations are scaled anew in every run")


def weight_type(isa: Isa) -> QuantType:
    """Signed weights, except for AVX2: its 16-bit sums of unsigned by signed products overflow."""
    return QuantType.QUInt8 if isa == "avx2" else QuantType.QInt8


def detect_isa(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = platform.machine()) -> Isa:
    """The best instruction set that ONNX Runtime's INT8 kernels know and this CPU has."""
    if machine in ("aarch64", "arm64"):
        return "arm64"
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if "avx512_vnni" in flags:
        return "avx512_vnni"
    return "avx512" if "avx512f" in flags else "avx2"
