import json
from pathlib import Path

import pytest

from optimize.engine import check_engine, read_engine
from optimize.errors import EngineError
from optimize.export_tensorrt import export_tensorrt, profiles_of
from optimize.quantize import fuse, quantize_half, quantize_int8
from optimize.sections import TensorRT

AHEAD_OF_TIME = TensorRT(builder="tensorrt_rtx", compute_capabilities=("8.9",), max_batch_size=32)
LENGTHS = [8, 9, 10, 11, 12, 14, 16, 30]


@pytest.fixture
def engine(tiny_onnx: Path, tmp_path: Path) -> Path:
    """A real engine, built without a GPU."""
    pytest.importorskip("tensorrt_rtx_bindings")
    export_tensorrt(tiny_onnx, AHEAD_OF_TIME, LENGTHS, 64, tmp_path)
    return tmp_path / "sm_8.9.plan"


def test_an_engine_is_built_without_a_gpu_with_its_profiles_and_tensors(engine: Path):
    found = read_engine(engine)
    assert engine.stat().st_size > 10_000
    assert (found.engine.builder, found.engine.compute_capability) == ("tensorrt_rtx", "8.9")
    assert found.engine.profiles == [
        {"min": [1, 1], "opt": [8, 16], "max": [32, 32]},
        {"min": [1, 1], "opt": [8, 48], "max": [32, 64]},
    ]
    tensors = {t.name: (t.data_type, t.shape, t.is_input) for t in found.tensors}
    ids = ("int64", [-1, -1], True)
    assert tensors == {
        "input_ids": ids,
        "attention_mask": ids,
        "token_type_ids": ids,
        "embedding": ("float", [-1, 32], False),
    }


def test_an_fp16_graph_gives_an_fp16_engine(tiny_onnx: Path, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx_bindings")
    (tmp_path / "half").mkdir()
    quantize_half(tiny_onnx, tmp_path / "half")
    export_tensorrt(tmp_path / "half/model.onnx", AHEAD_OF_TIME, LENGTHS, 64, tmp_path)
    assert read_engine(tmp_path / "sm_8.9.plan").engine.fp16


def test_an_rtx_engine_is_never_put_behind_tritons_tensorrt_backend(engine: Path):
    with pytest.raises(EngineError, match="Triton's tensorrt backend cannot load it"):
        check_engine(read_engine(engine), "tensorrt")


def test_an_engine_for_another_gpu_is_refused(engine: Path):
    with pytest.raises(EngineError, match=r"for compute capability 8\.9 and the node has 9\.0"):
        check_engine(read_engine(engine), "onnxruntime", "9.0")
    check_engine(read_engine(engine), "onnxruntime", "8.9")


def test_an_engine_that_was_changed_is_refused(engine: Path):
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    with pytest.raises(EngineError, match="is not the engine that"):
        read_engine(engine)


def test_an_engine_without_its_metadata_is_refused(engine: Path):
    engine.with_suffix(".json").write_text(json.dumps({}))
    with pytest.raises(EngineError, match="nobody can tell otherwise which GPU it runs on"):
        read_engine(engine)


@pytest.mark.parametrize(
    ("lengths", "profiles"),
    [
        ([10] * 100, [(16, 16), (144, 256)]),
        ([250] * 100, [(256, 256)]),
        ([300] * 100, [(256, 256)]),
    ],
)
def test_profiles_follow_the_lengths_of_real_texts(
    lengths: list[int], profiles: list[tuple[int, int]]
):
    found = profiles_of(lengths, max_tokens=256, max_batch_size=64)
    assert [(profile["opt"][1], profile["max"][1]) for profile in found] == profiles
    assert all(p["min"] == [1, 1] and p["max"][0] == 64 for p in found)


def test_operators_of_cpu_graphs_are_named_with_the_variant_to_use(tiny_onnx: Path, tmp_path: Path):
    for name, make in {
        "Attention": lambda d: fuse(tiny_onnx, d),
        "MatMulInteger": lambda d: quantize_int8(tiny_onnx, "avx2", True, d),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder)
        with pytest.raises(EngineError, match=rf"{name}.*from the fp32 or fp16 variant"):
            export_tensorrt(folder / "model.onnx", AHEAD_OF_TIME, LENGTHS, 64, folder)


def test_a_gpu_that_the_builder_has_no_kernels_for_is_refused(tiny_onnx: Path, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx_bindings")
    section = AHEAD_OF_TIME.model_copy(update={"compute_capabilities": ("9.0",)})
    with pytest.raises(EngineError, match=r"no kernels for compute capability 9\.0: it knows 7\.5"):
        export_tensorrt(tiny_onnx, section, LENGTHS, 64, tmp_path)


def test_the_datacenter_builder_says_where_to_run_it(tiny_onnx: Path, tmp_path: Path):
    with pytest.raises(
        EngineError, match=r"not installed here: run this in NVIDIA's|no GPU to build"
    ):
        export_tensorrt(tiny_onnx, TensorRT(builder="tensorrt"), LENGTHS, 64, tmp_path)
