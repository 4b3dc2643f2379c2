"""What no program can beat on a device: its arithmetic and its memory, measured beside the models.

    floor of a case = the longer of  2 x product weights x tokens / arithmetic   and   weight bytes / memory

Attention itself, activations, table look-ups and copies come on top: a real model stays above its floor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch

FLOOR_SIZE = {"cuda": 8192, "cpu": 1024}
PRODUCTS = {"MatMul", "Gemm", "MatMulInteger", "DynamicQuantizeMatMul", "Attention"}
PASSES = {"DequantizeLinear", "Cast", "Transpose"}  # between a weight and its product


@dataclass(frozen=True)
class Work:
    """What one run must do at least: multiply each token with `weights` numbers, read `weight_bytes`.

    `arithmetic` is a floor's number format: fp32, tf32 or fp16; others have no floor here.
    """

    weights: int
    weight_bytes: int
    arithmetic: str


def floors(device: str) -> dict[str, float]:
    """What the device reaches at best: arithmetic in TFLOP/s by format, memory in GB/s."""
    size = FLOOR_SIZE[device]
    found = {"tflops_fp32": tflops(size, torch.float32, device)}
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # ONNX Runtime multiplies FP32 so by default
        found["tflops_tf32"] = tflops(size, torch.float32, device)
        torch.set_float32_matmul_precision("highest")
        found["tflops_fp16"] = tflops(size, torch.float16, device)
    source = torch.randn(size, size, device=device)
    moved = 2 * source.numel() * source.element_size()
    found["gb_per_s"] = moved / best_of(source.clone, device) / 1e9
    return found


def tflops(size: int, kind: torch.dtype, device: str) -> float:
    """Of one large matrix product."""
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    return 2 * size**3 / best_of(partial(torch.matmul, a, b), device) / 1e12


def best_of(work: Callable[[], Any], device: str, tries: int = 10) -> float:
    """The fewest seconds of several tries."""
    seconds = []
    for _ in range(tries):
        synchronize(device)
        begin = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def synchronize(device: str) -> None:
    """Wait until the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def floor_of(work: Work, reached: dict[str, float], batch: int, tokens: int) -> dict[str, Any]:
    """The floor of one run on [batch, tokens] in milliseconds, and which of the two it is."""
    limits_s = {"memory": work.weight_bytes / (reached["gb_per_s"] * 1e9)}
    if speed := reached.get(f"tflops_{work.arithmetic}"):
        limits_s["arithmetic"] = 2 * work.weights * batch * tokens / (speed * 1e12)
    bound = max(limits_s, key=limits_s.__getitem__)
    return {"floor_ms": limits_s[bound] * 1e3, "bound": bound}


def work_of_module(module: torch.nn.Module) -> Work:
    """The linear layers of an encoder; its pooler is not run where vectors are the mean."""
    weights = [
        layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear) and "pooler" not in name
    ]
    numbers = sum(weight.numel() for weight in weights)
    size_bytes = weights[0].element_size()
    return Work(numbers, numbers * size_bytes, {4: "fp32", 2: "fp16"}[size_bytes])


def work_of_graph(path: Path, device: str) -> Work:
    """The two-dimensional weights that a graph multiplies with."""
    graph = onnx.load(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    for node in graph.node:
        if node.op_type in PASSES and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    multiplied = {
        weights[name].name: weights[name]
        for node in graph.node
        if node.op_type in PRODUCTS
        for name in node.input
        if name in weights
    }
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in multiplied.values()]
    formats = {"float32": "tf32" if device == "cuda" else "fp32", "float16": "fp16"}
    widest = max(arrays, key=lambda array: array.size).dtype.name
    return Work(
        weights=sum(array.size for array in arrays),
        weight_bytes=sum(array.nbytes for array in arrays),
        arithmetic=formats.get(widest, widest),
    )
