"""Real engines, built without a GPU by TensorRT-RTX; it also stands in for the datacenter builder."""

import json
import re
import struct
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from optimize.distill.layers import keep_layers
from optimize.engine import Profile, read_engine
from optimize.errors import EngineError
from optimize.export_onnx import export_onnx
from optimize.export_tensorrt import export_tensorrt, profiles_of, serialize
from optimize.load import fetch_source, source_identity
from optimize.opening import open_model
from optimize.quantize import fuse, quantize_half, quantize_int8
from optimize.recipe import Recipe, read_recipe
from optimize.sections import TensorRT
from optimize.steps import Workspace

ROOT = Path(__file__).resolve().parents[3]
AHEAD_OF_TIME = TensorRT(builder="tensorrt_rtx", compute_capabilities=("8.9",))
PROFILES: list[Profile] = [
    {"min": [1, 1], "opt": [8, 16], "max": [32, 32]},
    {"min": [1, 1], "opt": [8, 48], "max": [32, 64]},
]


def described_tensors(engine: bytes) -> dict[str, tuple[str, list[str]]]:
    """Type and dims of the engine's own inputs and outputs in its first profile.

    An engine cannot be opened without a driver, but what it runs is described inside it in plain text.
    """
    text = engine.decode("latin-1")
    lists = [re.search(rf"\n  {kind}={{([^\n]*)}}\n", text) for kind in ("inputs", "outputs")]
    names = [name for found in lists if found for name in re.findall(r'"([\w ]+)\.1"', found[1])]
    described = {}
    for name in names:
        line = re.search(rf'tensor={{ [^\n]* name="{name}\.1" [^\n]* }}', text)
        assert line is not None
        dims = re.search(r"dims={ ([^}]*) }", line[0])
        kind = re.search(r" type=(\w+) }", line[0])
        assert dims is not None
        assert kind is not None
        described[name] = (kind[1], dims[1].split())
    return described


def held_shapes(engine: bytes, shapes: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those of some shapes [batch, tokens] that an engine stores as neighbouring 64-bit numbers."""
    return {shape for shape in shapes if struct.pack("<qq", *shape) in engine}


@pytest.fixture(scope="module")
def gpu_recipe() -> Recipe:
    return read_recipe(ROOT / "models/recipes/gpu/search-encoder.yaml")


@pytest.fixture(scope="module")
def student(gpu_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of the shipped recipe's student before its training, which changes no shape."""
    workspace = Workspace(ROOT / "build/cache", lambda *_: None)
    fetch = partial(fetch_source, gpu_recipe)
    source = workspace.step("load", source_identity(gpu_recipe), fetch).directory
    model = open_model(source, gpu_recipe, attention="eager")
    assert gpu_recipe.distill is not None
    assert gpu_recipe.distill.student is not None
    keep_layers(model.module.encoder, gpu_recipe.distill.student.layers)
    path = tmp_path_factory.mktemp("student") / "model.onnx"
    export_onnx(model, gpu_recipe.export.opset, path)
    return path


@pytest.fixture
def engine(tiny_onnx: Path, tmp_path: Path) -> Path:
    """A real engine, built without a GPU."""
    pytest.importorskip("tensorrt_rtx_bindings")
    export_tensorrt(tiny_onnx, AHEAD_OF_TIME, PROFILES, tmp_path)
    return tmp_path / "sm_8.9.plan"


def test_an_engine_is_built_without_a_gpu_with_its_profiles_and_tensors(engine: Path):
    found = read_engine(engine)
    assert engine.stat().st_size > 10_000
    assert (found.engine.builder, found.engine.compute_capability) == ("tensorrt_rtx", "8.9")
    assert found.engine.profiles == PROFILES
    assert not found.engine.fp16
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
    export_tensorrt(tmp_path / "half/model.onnx", AHEAD_OF_TIME, PROFILES, tmp_path)
    engine = tmp_path / "sm_8.9.plan"
    assert read_engine(engine).engine.fp16
    assert b"type=half" in engine.read_bytes()


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_the_engine_of_the_shipped_recipes_student_holds_its_shapes_and_tensors(
    gpu_recipe: Recipe, student: Path, tmp_path: Path, half: bool
):
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = student
    if half:
        quantize_half(student, tmp_path)
        graph = tmp_path / "model.onnx"
    questions = [12] * 90 + [30] * 9 + [200]
    profiles = profiles_of(questions, gpu_recipe.max_tokens, gpu_recipe.serving.max_batch_size)
    assert gpu_recipe.tensorrt is not None
    export_tensorrt(graph, gpu_recipe.tensorrt, profiles, tmp_path)
    (plan,) = tmp_path.glob("*.plan")
    content = plan.read_bytes()
    asked = {(shape[0], shape[1]) for profile in profiles for shape in profile.values()}
    assert asked >= {(1, 1), (32, 16), (128, 256)}
    assert held_shapes(content, asked | {(127, 256), (128, 255)}) == asked
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    described = described_tensors(content)
    assert {name: kind for name, (kind, _) in described.items()} == {
        **dict.fromkeys(inputs, "int64"),
        "embedding": "float",
    }
    assert described["embedding"][1][1:] == ["384"]
    assert b"accelerators={sm89 }" in content
    assert (b"type=half" in content) == read_engine(plan).engine.fp16 == half


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
            export_tensorrt(folder / "model.onnx", AHEAD_OF_TIME, PROFILES, folder)


def test_a_gpu_that_the_builder_has_no_kernels_for_is_refused(tiny_onnx: Path, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx_bindings")
    section = AHEAD_OF_TIME.model_copy(update={"compute_capabilities": ("9.0",)})
    with pytest.raises(EngineError, match=r"no kernels for compute capability 9\.0, it knows 7\.5"):
        export_tensorrt(tiny_onnx, section, PROFILES, tmp_path)


def test_the_datacenter_builder_says_where_to_run_it(tiny_onnx: Path, tmp_path: Path):
    with pytest.raises(
        EngineError, match=r"not installed here: run this in NVIDIA's|no GPU to build"
    ):
        export_tensorrt(tiny_onnx, TensorRT(builder="tensorrt"), PROFILES, tmp_path)


def test_what_the_datacenter_builder_measured_is_kept_for_the_next_build(datacenter_engine: Path):
    (cache,) = datacenter_engine.parents[1].glob("timing-*.cache")
    assert cache.stat().st_size > 0
    assert read_engine(datacenter_engine).engine.compute_capability == "9.0"


def test_the_builder_that_measures_nothing_keeps_no_timing_cache(engine: Path):
    assert not list(engine.parents[1].glob("timing-*.cache"))


class RecordingConfig:
    """The three calls of a builder's configuration that a timing cache takes."""

    def __init__(self) -> None:
        self.begun_with: list[bytes] = []

    def create_timing_cache(self, stored: bytes) -> bytes:
        return stored

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
        assert not ignore_mismatch
        self.begun_with.append(cache)

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: self.begun_with[-1] + b"+")


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_build_begins_with_what_the_last_one_that_succeeded_measured(
    tmp_path: Path, succeeds: bool
):
    cache = tmp_path / "timing.cache"
    works = SimpleNamespace(build_serialized_network=lambda *_: b"engine")
    fails = SimpleNamespace(build_serialized_network=lambda *_: None)
    config = RecordingConfig()
    assert serialize(works, None, config, cache) == b"engine"
    serialize(works if succeeds else fails, None, config, cache)
    serialize(works, None, config, cache)
    assert config.begun_with == [b"", b"+", b"++" if succeeds else b"+"]
