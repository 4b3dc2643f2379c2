import json
from pathlib import Path

import pytest
import torch

from optimize import bench_gpu


def test_the_gpu_bench_measures_every_candidate_on_every_shape(
    tiny_model: Path, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench_gpu, "FLOOR_SIZE", {"cpu": 64})
    monkeypatch.setattr(bench_gpu, "random_feed", small_ids)
    output = tmp_path / "gpu.json"
    arguments = [
        "--source",
        str(tiny_model),
        "--graph",
        f"onnx-fp32={tiny_onnx}",
        "--device",
        "cpu",
    ]
    arguments += ["--batch-sizes", "1", "4", "--lengths", "8", "--rounds", "2", "--calls", "2"]
    assert bench_gpu.main([*arguments, "--no-compile", "--output", str(output)]) == 0
    report = json.loads(output.read_text())
    assert [(c["batch_size"], c["tokens"]) for c in report["cases"]] == [(1, 8), (4, 8)]
    for case in report["cases"]:
        assert case["candidates"].keys() == {"torch-fp32", "onnx-fp32"}
        assert case["candidates"]["onnx-fp32"]["max_abs_error"] < 1e-4
        assert case["candidates"]["torch-fp32"]["speedup"] == 1.0
    assert report["floors"].keys() == {"tflops_fp32", "gb_per_s"}


def small_ids(rng, batch: int, length: int) -> bench_gpu.Feed:
    ids = rng.integers(5, 40, (batch, length))
    return {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_how_to_try_it(tiny_model: Path, capsys: pytest.CaptureFixture[str]):
    assert bench_gpu.main(["--source", str(tiny_model)]) == 1
    assert "--device cpu" in capsys.readouterr().err
