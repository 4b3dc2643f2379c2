import json
import subprocess
from pathlib import Path

import pytest
import torch

from optimize import bench_floors, bench_gpu
from optimize.bench_floors import Work, floor_of, work_of_graph, work_of_module
from optimize.quantize import quantize_half, quantize_int8

# Two layers of attention (four products of 32 x 32) and of a feed-forward part (two of 32 x 64).
PRODUCT_WEIGHTS = 2 * (4 * 32 * 32 + 2 * 32 * 64)


@pytest.fixture
def arguments(tiny_model: Path, tiny_onnx: Path, tmp_path: Path) -> list[str]:
    """A small run on the CPU."""
    places = ["--source", str(tiny_model), "--graph", f"onnx-fp32={tiny_onnx}"]
    sizes = ["--batch-sizes", "1", "4", "--lengths", "8", "--rounds", "2", "--calls", "2"]
    rest = ["--device", "cpu", "--no-compile", "--output", str(tmp_path / "gpu.json")]
    return [*places, *sizes, *rest]


def test_the_gpu_bench_measures_every_candidate_on_every_shape(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(bench_floors, "FLOOR_SIZE", {"cpu": 64})
    monkeypatch.setattr(bench_gpu, "random_feed", small_ids)
    assert bench_gpu.main(arguments) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert [(c["batch_size"], c["tokens"]) for c in report["cases"]] == [(1, 8), (4, 8)]
    for case in report["cases"]:
        assert case["candidates"].keys() == {"torch-fp32", "onnx-fp32"}
        assert case["candidates"]["onnx-fp32"]["max_abs_error"] < 1e-4
        assert case["candidates"]["torch-fp32"]["speedup"] == 1.0
        for found in case["candidates"].values():
            assert found["times_floor"] == pytest.approx(found["p50_ms"] / found["floor_ms"])
            assert found["bound"] in ("arithmetic", "memory")
    assert report["floors"].keys() == {"tflops_fp32", "gb_per_s"}
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch")]
    assert len(rows) == 4
    assert all(row.endswith(("x the arithmetic floor", "x the memory floor")) for row in rows)


def small_ids(rng, batch: int, length: int) -> bench_gpu.Feed:
    ids = rng.integers(5, 40, (batch, length))
    return {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_how_to_try_it(tiny_model: Path, capsys: pytest.CaptureFixture[str]):
    assert bench_gpu.main(["--source", str(tiny_model)]) == 1
    assert "--device cpu" in capsys.readouterr().err


def test_a_floor_is_the_longer_of_arithmetic_and_memory():
    reached = {"tflops_fp16": 100.0, "gb_per_s": 1000.0}
    work = Work(weights=10_000_000, weight_bytes=20_000_000, arithmetic="fp16")
    one = floor_of(work, reached, batch=1, tokens=16)
    many = floor_of(work, reached, batch=128, tokens=256)
    assert (one["floor_ms"], one["bound"]) == (pytest.approx(0.02), "memory")
    assert (many["floor_ms"], many["bound"]) == (pytest.approx(6.5536), "arithmetic")


def test_a_format_whose_arithmetic_was_not_measured_has_a_memory_floor_only():
    work = Work(weights=10, weight_bytes=1000, arithmetic="int8")
    assert floor_of(work, {"gb_per_s": 1.0}, 128, 256)["bound"] == "memory"


def test_the_work_of_a_model_is_that_of_its_products_in_their_own_format(
    tiny_source, tiny_onnx: Path, tmp_path: Path
):
    assert work_of_module(tiny_source.module.encoder) == Work(
        PRODUCT_WEIGHTS, 4 * PRODUCT_WEIGHTS, "fp32"
    )
    assert work_of_graph(tiny_onnx, "cpu") == Work(PRODUCT_WEIGHTS, 4 * PRODUCT_WEIGHTS, "fp32")
    assert work_of_graph(tiny_onnx, "cuda").arithmetic == "tf32"
    quantize_half(tiny_onnx, tmp_path)
    half = work_of_graph(tmp_path / "model.onnx", "cuda")
    assert half == Work(PRODUCT_WEIGHTS, 2 * PRODUCT_WEIGHTS, "fp16")
    quantize_int8(tiny_onnx, "avx2", True, tmp_path)
    quantized = work_of_graph(tmp_path / "model.onnx", "cpu")
    assert (quantized.weights, quantized.weight_bytes) == (PRODUCT_WEIGHTS, PRODUCT_WEIGHTS)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--triton", "127.0.0.1:1"], "--triton and --triton-model go together"),
        (["--triton-model", "onnx-fp32=core"], "--triton and --triton-model go together"),
        (
            ["--triton", "127.0.0.1:1", "--triton-model", "fp16=core"],
            "--triton-model fp16: give the same graph by --graph fp16=PATH",
        ),
        (["--graph", "model.onnx"], "'model.onnx' is not NAME=VALUE"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    arguments: list[str], more: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        bench_gpu.main([*arguments, *more])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "version"), [("580.65.06\n580.65.06\n", "580.65.06"), (None, "unknown")]
)
def test_the_drivers_version_is_what_nvidia_smi_tells(
    monkeypatch: pytest.MonkeyPatch, told: str | None, version: str
):
    def nvidia_smi(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--query-gpu=driver_version" in command
        if told is None:
            raise FileNotFoundError
        return subprocess.CompletedProcess(command, 0, stdout=told)

    monkeypatch.setattr(bench_gpu.subprocess, "run", nvidia_smi)
    assert bench_gpu.driver_version() == version
