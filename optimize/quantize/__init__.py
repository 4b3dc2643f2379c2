"""Graphs in fewer bits: dynamic INT8, static INT8 (QDQ), FP16; and fused graphs."""

from optimize.quantize.dynamic import Isa, detect_isa, quantize_int8
from optimize.quantize.fuse import fuse
from optimize.quantize.half import quantize_half
from optimize.quantize.static import write_static_int8

__all__ = ["Isa", "detect_isa", "fuse", "quantize_half", "quantize_int8", "write_static_int8"]
