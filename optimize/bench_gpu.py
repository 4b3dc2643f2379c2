"""Time a model's graphs against PyTorch on a GPU: `python -m optimize.bench_gpu --help`.

For a host that may be bare: it needs torch, transformers, onnx, onnxruntime(-gpu), tokenizers and numpy, with
--triton also tritonclient and grpcio, and nothing else of this project's environment. On a CPU the same
code runs, which is how it is tested.

Every case is timed in rounds, one candidate after the other, after an untimed call; the device is
synchronised around each call. Inputs are random token ids, never zeros. Floors are measured in the same
run: a large matrix product for arithmetic, a large copy for memory; each row says how many times its own
floor it takes. With --triton, a running server's dynamic batcher is compared with direct calls of a graph.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from optimize.bench_candidates import Candidate, open_graph, torch_candidates
from optimize.bench_floors import floor_of, floors, synchronize
from optimize.bench_triton import Feed, Run, compare, connect

BATCH_SIZES = (1, 8, 32, 128)
LENGTHS = (16, 64, 256)
ROUNDS, CALLS = 10, 10
VOCABULARY_START = 1000  # below are the special tokens of BERT vocabularies


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report. Exit status 0, or 1 when the device is not there."""
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: no GPU here: run it on a GPU host, or try it with --device cpu", file=sys.stderr
        )
        return 1
    candidates = torch_candidates(options.source, options.device, options.compile)
    candidates |= {name: open_graph(Path(path), options.device) for name, path in options.graph}
    rng = np.random.default_rng(0)
    reached = floors(options.device)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": describe_device(options.device),
        "versions": versions(),
        "floors": reached,
    }
    print("  ".join(f"{key} {value}" for key, value in report.items()))
    report["cases"] = measure_cases(candidates, reached, rng, options)
    report["triton"] = [
        case
        for name, model in options.triton_model
        for case in through_triton(candidates[name].run, name, model, rng, options)
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; exits where they do not fit together."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if bool(options.triton) != bool(options.triton_model):
        parser.error("--triton and --triton-model go together: an address, and what to ask there")
    graphs = [name for name, _ in options.graph]
    if unknown := [name for name, _ in options.triton_model if name not in graphs]:
        parser.error(
            f"--triton-model {unknown[0]}: give the same graph by --graph {unknown[0]}=PATH"
        )
    return options


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m optimize.bench_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    named: dict[str, Any] = {"type": pair, "action": "append", "default": []}
    add("--source", type=Path, required=True, help="Hugging Face directory of the encoder")
    add("--graph", **named, metavar="NAME=PATH", help="an ONNX graph of it")
    add("--output", type=Path, default=Path("build/bench/gpu.json"))
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES))
    add("--lengths", type=int, nargs="+", default=list(LENGTHS))
    add("--rounds", type=int, default=ROUNDS)
    add("--calls", type=int, default=CALLS, help="per round")
    add("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    add("--triton", metavar="HOST:PORT", help="gRPC address of a Triton that runs already")
    add(
        "--triton-model",
        **named,
        metavar="NAME=MODEL",
        help="its model that serves the --graph NAME, as the core of a GPU ensemble does",
    )
    return parser


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE of the command line."""
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def random_feed(rng: np.random.Generator, batch: int, length: int) -> Feed:
    """Random token ids [batch, length] without padding."""
    shape = (batch, length)
    return {
        "input_ids": rng.integers(VOCABULARY_START, 20_000, shape, dtype=np.int64),
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }


def measure_cases(
    candidates: Mapping[str, Candidate],
    reached: dict[str, float],
    rng: np.random.Generator,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Every batch size in every length, shown as soon as it is measured."""
    found = []
    for batch in options.batch_sizes:
        for length in options.lengths:
            feed = random_feed(rng, batch, length)
            found.append(measure_case(candidates, feed, reached, options))
            print_case(found[-1])
    return found


def measure_case(
    candidates: Mapping[str, Candidate],
    feed: Feed,
    reached: dict[str, float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """All candidates on one shape, in turns."""
    batch, length = feed["input_ids"].shape
    seconds: dict[str, list[list[float]]] = {name: [] for name in candidates}
    answers = {name: candidate.run(feed) for name, candidate in candidates.items()}
    for _ in range(options.rounds):
        for name, candidate in candidates.items():
            candidate.run(feed)
            calls = [timed(candidate.run, feed, options.device) for _ in range(options.calls)]
            seconds[name].append(calls)
    baseline = [statistics.median(calls) for calls in seconds["torch-fp32"]]
    results = {}
    for name, rounds in seconds.items():
        p50_ms, found = figures(rounds, baseline, batch)
        floor = floor_of(candidates[name].work, reached, batch, length)
        error = difference(answers[name], answers["torch-fp32"])
        times = {"times_floor": p50_ms / floor["floor_ms"]}
        results[name] = {**found, **floor, **times, "max_abs_error": error}
    return {"batch_size": batch, "tokens": length, "candidates": results}


def figures(
    rounds: list[list[float]], baseline: list[float], batch: int
) -> tuple[float, dict[str, Any]]:
    """The median in milliseconds, and what is told of one candidate's seconds."""
    medians = [statistics.median(calls) for calls in rounds]
    every = np.concatenate(rounds)
    ratios = [above / below for above, below in zip(baseline, medians, strict=True)]
    p50_ms = float(np.percentile(every, 50)) * 1e3
    return p50_ms, {
        "p50_ms": p50_ms,
        "p99_ms": float(np.percentile(every, 99)) * 1e3,
        "texts_per_s": batch / statistics.median(medians),
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
    }


def difference(vectors: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float | None:
    """The largest absolute one; None where the shapes differ, as a classifier's do."""
    if vectors.shape != expected.shape:
        return None
    return float(np.abs(vectors - expected).max())


def timed(run: Run, feed: Feed, device: str) -> float:
    """Seconds of one call, the device idle before and after it."""
    synchronize(device)
    begin = time.perf_counter()
    run(feed)
    synchronize(device)
    return time.perf_counter() - begin


def through_triton(
    direct: Run, name: str, model: str, rng: np.random.Generator, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One graph behind the server that runs at --triton, with as many callers as the batch sizes."""
    client, ask = connect(options.triton, model)
    found = []
    for callers in options.batch_sizes:
        for length in options.lengths:
            feed = random_feed(rng, callers * options.calls, length)
            case = compare(client, model, ask, direct, feed, callers, options.rounds)
            found.append({"graph": name, "model": model, **case})
            print_triton(found[-1])
    return found


def describe_device(device: str) -> dict[str, str]:
    """What was measured on."""
    if device == "cpu":
        return {"name": platform.processor() or platform.machine(), "kind": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "kind": "cuda",
        "driver": driver_version(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_gib": f"{properties.total_memory / 2**30:.0f}",
        "cuda": str(torch.version.cuda),
    }


def driver_version() -> str:
    """The NVIDIA driver's, which decides speed as well."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(told.stdout.splitlines()), "unknown")


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


def print_case(case: Mapping[str, Any]) -> None:
    """One line per candidate."""
    for name, found in case["candidates"].items():
        print(
            f"batch {case['batch_size']:>4} x {case['tokens']:>4} tokens  {name:<14}"
            f" p50 {found['p50_ms']:8.2f} ms  p99 {found['p99_ms']:8.2f} ms"
            f" {found['texts_per_s']:>10,.0f} texts/s  {found['speedup']:6.2f}x"
            f"  {found['times_floor']:7.1f} x the {found['bound']} floor",
            flush=True,
        )


def print_triton(case: Mapping[str, Any]) -> None:
    """One line: the server against direct calls of the same graph."""
    rates = case["texts_per_s"]
    print(
        f"{case['graph']} by {case['callers']:>4} callers x {case['tokens']:>4} tokens"
        f"  Triton {rates['triton']:>8,.0f} texts/s, p50 {case['p50_ms']:.2f} ms, "
        f"{case['texts_per_execution']:.1f} texts a run; direct {rates['one']:,.0f} one by one, "
        f"{rates['batched']:,.0f} in batches of {case['callers']}: Triton "
        f"{case['against_one_by_one']['median']:.2f}x and {case['against_batches']['median']:.2f}x",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
