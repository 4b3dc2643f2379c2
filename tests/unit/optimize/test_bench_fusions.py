import json
from pathlib import Path

import onnx
import pytest

from optimize.bench_fusions import PLAIN, main, make_forms
from optimize.quantize.fuse import runtime_operators


def test_each_form_of_a_graph_has_its_fusions(tiny_onnx: Path, tmp_path: Path):
    forms = make_forms(tiny_onnx, tmp_path)
    assert forms.keys() == {"fp32", "int8"}
    fused = {name: runtime_operators(path) for name, path in forms["fp32"].items()}
    assert fused[PLAIN] == set()
    assert {"Attention", "EmbedLayerNormalization"} <= fused["attention and embeddings"]
    slow = {"SkipLayerNormalization", "BiasGelu"}
    assert not slow & fused["attention and embeddings"]
    assert slow <= fused["all"]
    small = [n.op_type for n in onnx.load(forms["int8"]["all"]).graph.node]
    assert "QAttention" in small


def test_every_form_is_timed_against_the_graph_as_it_was_exported(
    tiny_onnx: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
):
    places = [str(tiny_onnx), str(tiny_model / "tokenizer.json")]
    assert main([*places, "--batch-sizes", "1", "4", "--rounds", "4"]) == 0
    report = json.loads(capsys.readouterr().out)
    for speedups in report["speedups"].values():
        assert speedups.keys() == {"attention and embeddings", "all"}
        for timed in speedups.values():
            assert [one["batch_size"] for one in timed] == [1, 4]
            assert all(one["low"] <= one["value"] <= one["high"] for one in timed)
