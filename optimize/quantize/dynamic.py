"""FP32 graph -> INT8 graph: dynamic, one scale per output channel, laid out for this CPU's instructions."""

import platform
from pathlib import Path
from typing import Literal

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from optimize.quantize.graph import FLOAT, notes_of, quiet, refuse_unusable, weight_products

Isa = Literal["avx2", "avx512", "avx512_vnni", "arm64"]


def quantize_int8(fp32: Path, isa: Isa, embedding_table: bool, destination: Path) -> None:
    """Write `destination`/model.onnx with INT8 weights; activations get their scale at run time.

    Raises QuantizeError when the graph cannot be used or has nothing to quantize.
    """
    refuse_unusable(fp32)
    weight_products(onnx.load(fp32))
    tables = ["Gather", "EmbedLayerNormalization"] if embedding_table else []
    # Fused graphs leave the types in between unsaid.
    options = {"DefaultTensorType": FLOAT}
    with quiet():
        quantize_dynamic(
            fp32,
            destination / "model.onnx",
            op_types_to_quantize=["MatMul", "Attention", *tables],
            per_channel=True,
            weight_type=weight_type(isa),
            extra_options=options,
        )
    notes_of(destination, f"dynamic INT8 for {isa}: activations are scaled anew in every run")


def weight_type(isa: Isa) -> QuantType:
    """Signed weights, but not on x86 without VNNI: there 16-bit sums of unsigned by signed products
    overflow (ONNX Runtime's guide to quantization, "When and why do I need to try U8U8?").
    """
    return QuantType.QUInt8 if isa in ("avx2", "avx512") else QuantType.QInt8


def detect_isa(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = platform.machine()) -> Isa:
    """The best instruction set that ONNX Runtime's INT8 kernels know and this CPU has."""
    if machine in ("aarch64", "arm64"):
        return "arm64"
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if "avx512_vnni" in flags:
        return "avx512_vnni"
    return "avx512" if "avx512f" in flags else "avx2"
