import json
from pathlib import Path

import numpy as np
import pytest

from serving.index.bench_gpu import main
from serving.index.gpu_devices import faiss_has_gpus

SMALL = [
    "--rows",
    "3000",
    "--dim",
    "16",
    "--batch-sizes",
    "1",
    "8",
    "--rounds",
    "1",
    "--calls",
    "2",
]


@pytest.mark.parametrize("layout", ["flat", "ivf-sq8"])
def test_without_a_gpu_it_measures_the_cpu(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--layout", layout]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gpu"] is None
    assert report["recall_at_10"].keys() == {"cpu"}
    assert report["recall_at_10"]["cpu"] > (0.999 if layout == "flat" else 0.3)
    assert [batch["queries"] for batch in report["batches"]] == [1, 8]
    assert all(batch["cpu"]["queries_per_s"] > 0 for batch in report["batches"])


@pytest.mark.skipif(faiss_has_gpus(), reason="tells what happens without faiss-gpu")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--layout", "flat", "--gpu", "0"]) == 1
    assert "FAISS cannot use GPUs here" in capsys.readouterr().err


def test_vectors_can_be_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    own = ["--vectors", str(tmp_path / "vectors.npy"), "--layout", "flat"]
    assert main([*SMALL, *own]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["dim"]) == (492, 8)


@pytest.mark.parametrize("content", [b"", b"no array"])
def test_a_file_that_holds_no_vectors_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vectors.npy").write_bytes(content)
    assert main([*SMALL, "--vectors", str(tmp_path / "vectors.npy"), "--layout", "flat"]) == 1
    assert "is no .npy file of numbers" in capsys.readouterr().err
