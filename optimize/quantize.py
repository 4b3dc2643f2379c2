"""FP32 graph -> INT8 graph: dynamic, one scale per output channel, laid out for this CPU's instructions."""

import logging
import platform
from pathlib import Path
from typing import Literal

from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

Isa = Literal["avx2", "avx512", "avx512_vnni", "arm64"]


def quantize_int8(fp32: Path, isa: Isa, destination: Path) -> None:
    """Write `destination`/model.onnx with INT8 weights; activations get their scale at run time."""
    # Without a config.json beside the graph optimum warns that it cannot load one; none is needed.
    logging.getLogger("optimum.onnxruntime.quantization").setLevel(logging.ERROR)
    configuration = getattr(AutoQuantizationConfig, isa)(is_static=False, per_channel=True)
    quantizer = ORTQuantizer(fp32)
    quantizer.quantize(save_dir=destination, quantization_config=configuration, file_suffix=None)


def detect_isa(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = platform.machine()) -> Isa:
    """The best instruction set that ONNX Runtime's INT8 kernels know and this CPU has."""
    if machine in ("aarch64", "arm64"):
        return "arm64"
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if "avx512_vnni" in flags:
        return "avx512_vnni"
    return "avx512" if "avx512f" in flags else "avx2"
