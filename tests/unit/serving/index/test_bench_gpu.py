import json

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
