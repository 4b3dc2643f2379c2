"""Time a model's graphs against PyTorch on a GPU: `python -m optimize.bench_gpu --help`.

For a host that may be bare: it needs torch, transformers, onnxruntime(-gpu), tokenizers and numpy, and
nothing else of this project's environment. On a CPU the same code runs, which is how it is tested.

Every case is timed in rounds, one candidate after the other, after an untimed call; the device is
synchronised around each call. Inputs are random token ids, never zeros. Floors are measured in the same
run: a large matrix product for arithmetic, a large copy for memory.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from transformers import AutoModel

BATCH_SIZES = (1, 8, 32, 128)
LENGTHS = (16, 64, 256)
ROUNDS, CALLS = 10, 10
VOCABULARY_START = 1000  # below are the special tokens of BERT vocabularies
FLOOR_SIZE = {"cuda": 8192, "cpu": 1024}

Feed = dict[str, npt.NDArray[np.int64]]
Run = Callable[[Feed], npt.NDArray[np.float32]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report. Exit status 0, or 1 when the device is not there."""
    options = build_parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: no GPU here: run it on a GPU host, or try it with --device cpu", file=sys.stderr
        )
        return 1
    graphs = dict(pair.split("=", 1) for pair in options.graph)
    candidates = torch_candidates(options.source, options.device, options.compile)
    candidates |= {name: open_graph(Path(path), options.device) for name, path in graphs.items()}
    rng = np.random.default_rng(0)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": describe_device(options.device),
        "versions": versions(),
        "floors": floors(options.device),
        "cases": [
            measure_case(candidates, random_feed(rng, batch, length), options)
            for batch in options.batch_sizes
            for length in options.lengths
        ],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print_report(report)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m optimize.bench_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", type=Path, required=True, help="Hugging Face directory of the encoder")
    add("--graph", action="append", default=[], metavar="NAME=PATH", help="an ONNX graph of it")
    add("--output", type=Path, default=Path("build/bench/gpu.json"))
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES))
    add("--lengths", type=int, nargs="+", default=list(LENGTHS))
    add("--rounds", type=int, default=ROUNDS)
    add("--calls", type=int, default=CALLS, help="per round")
    add("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    return parser


def random_feed(rng: np.random.Generator, batch: int, length: int) -> Feed:
    """Random token ids [batch, length] without padding."""
    shape = (batch, length)
    return {
        "input_ids": rng.integers(VOCABULARY_START, 20_000, shape, dtype=np.int64),
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }


def torch_candidates(source: Path, device: str, compiled: bool) -> dict[str, Run]:
    """PyTorch eager in FP32 and, on a GPU, FP16; and compiled."""
    kinds = {"torch-fp32": torch.float32}
    if device == "cuda":
        kinds["torch-fp16"] = torch.float16
    found = {}
    for name, kind in kinds.items():
        module = AutoModel.from_pretrained(source, local_files_only=True, torch_dtype=kind)
        found[name] = torch_run(module.eval().to(device), device)
    if compiled:
        kind = kinds.get("torch-fp16", torch.float32)
        module = AutoModel.from_pretrained(source, local_files_only=True, torch_dtype=kind)
        found["torch-compile"] = torch_run(torch.compile(module.eval().to(device)), device)
    return found


def torch_run(module: Any, device: str) -> Run:
    """Ids in, mean-pooled unit vectors out, as a server would use it: with both copies."""

    def run(feed: Feed) -> npt.NDArray[np.float32]:
        tensors = {name: torch.from_numpy(ids).to(device) for name, ids in feed.items()}
        with torch.inference_mode():
            hidden = module(**tensors).last_hidden_state.float()
            vectors = torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)
        return np.asarray(vectors.cpu().numpy())

    return run


def open_graph(path: Path, device: str) -> Run:
    """An ONNX graph with its pooling inside, on the device's provider; the copies are included."""
    wanted = ["CUDAExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    if device == "cuda":
        ort.preload_dlls()  # the CUDA libraries of torch's own packages
    session = ort.InferenceSession(str(path), providers=wanted)
    if session.get_providers()[0] != wanted[0]:
        raise SystemExit(f"error: ONNX Runtime has no {wanted[0]} here: install onnxruntime-gpu")
    names = {node.name for node in session.get_inputs()}

    def run(feed: Feed) -> npt.NDArray[np.float32]:
        (vectors,) = session.run(None, {n: ids for n, ids in feed.items() if n in names})
        return np.asarray(vectors, dtype=np.float32)

    return run


def measure_case(
    candidates: Mapping[str, Run], feed: Feed, options: argparse.Namespace
) -> dict[str, Any]:
    """All candidates on one shape, in turns."""
    batch, length = feed["input_ids"].shape
    expected = candidates["torch-fp32"](feed)
    seconds: dict[str, list[list[float]]] = {name: [] for name in candidates}
    for _ in range(options.rounds):
        for name, run in candidates.items():
            run(feed)
            seconds[name].append([timed(run, feed, options.device) for _ in range(options.calls)])
    baseline = [statistics.median(calls) for calls in seconds["torch-fp32"]]
    results = {}
    for name, rounds in seconds.items():
        medians = [statistics.median(calls) for calls in rounds]
        every = np.concatenate(rounds)
        ratios = [above / below for above, below in zip(baseline, medians, strict=True)]
        results[name] = {
            "p50_ms": float(np.percentile(every, 50)) * 1e3,
            "p99_ms": float(np.percentile(every, 99)) * 1e3,
            "texts_per_s": batch / statistics.median(medians),
            "speedup": statistics.median(ratios),
            "speedup_range": [min(ratios), max(ratios)],
            "max_abs_error": float(np.abs(candidates[name](feed) - expected).max())
            if candidates[name](feed).shape == expected.shape
            else None,
        }
    return {"batch_size": batch, "tokens": length, "candidates": results}


def timed(run: Run, feed: Feed, device: str) -> float:
    """Seconds of one call, the device idle before and after it."""
    synchronize(device)
    begin = time.perf_counter()
    run(feed)
    synchronize(device)
    return time.perf_counter() - begin


def synchronize(device: str) -> None:
    """Wait until the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def floors(device: str) -> dict[str, float]:
    """What the device reaches at best: arithmetic in TFLOP/s by type, memory in GB/s."""
    size = FLOOR_SIZE[device]
    found = {}
    kinds = {"fp32": torch.float32} | ({"fp16": torch.float16} if device == "cuda" else {})
    for name, kind in kinds.items():
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        found[f"tflops_{name}"] = 2 * size**3 / best_of(partial(torch.matmul, a, b), device) / 1e12
    source = torch.randn(size, size, device=device)
    moved = 2 * source.numel() * source.element_size()
    found["gb_per_s"] = moved / best_of(source.clone, device) / 1e9
    return found


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


def describe_device(device: str) -> dict[str, str]:
    """What was measured on."""
    if device == "cpu":
        return {"name": platform.processor() or platform.machine(), "kind": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "kind": "cuda",
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_gib": f"{properties.total_memory / 2**30:.0f}",
        "cuda": str(torch.version.cuda),
    }


def versions() -> dict[str, str]:
    """The versions that decide the figures."""
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
    }


def print_report(report: dict[str, Any]) -> None:
    """One line per case and candidate."""
    print(f"{report['device']['name']}  {report['versions']}  floors {report['floors']}")
    for case in report["cases"]:
        for name, found in case["candidates"].items():
            print(
                f"batch {case['batch_size']:>4} x {case['tokens']:>4} tokens  {name:<14}"
                f" p50 {found['p50_ms']:8.2f} ms  p99 {found['p99_ms']:8.2f} ms"
                f" {found['texts_per_s']:>10,.0f} texts/s  {found['speedup']:6.2f}x"
            )


if __name__ == "__main__":
    sys.exit(main())
