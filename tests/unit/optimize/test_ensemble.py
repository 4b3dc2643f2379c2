import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tritonclient.grpc import model_config_pb2 as pb

from models.files import sha256_file
from models.manifest import read_manifest
from models.triton.text_encoder.tokens import FEED
from optimize.engine import Profile
from optimize.ensemble import ENGINE_CACHE, buckets_of, ensemble_configs
from optimize.errors import EngineError, PackageError
from optimize.graph_facts import GraphFacts, graph_facts
from optimize.lint import lint
from optimize.package import Parts, assemble
from optimize.proof import Proof
from optimize.quantize import quantize_half
from optimize.recipe import Recipe
from optimize.sections import TensorRT
from optimize.sign import sign_repository
from optimize.triton_config import read_config

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def gpu_recipe(tiny_recipe: Recipe) -> Recipe:
    serving = tiny_recipe.serving.model_copy(
        update={"preferred_batch_sizes": (16, 32), "instances": 2}
    )
    return tiny_recipe.model_copy(update={"target": "gpu", "serving": serving})


@pytest.fixture
def parts(tiny_onnx: Path, tiny_model: Path, served_shapes: list[Profile]) -> Parts:
    tokenizer = tiny_model / "tokenizer.json"
    return Parts(tiny_onnx, tokenizer, data_sets=[], packages=[], profiles=served_shapes)


@pytest.fixture(scope="module")
def facts(tiny_onnx: Path) -> GraphFacts:
    return graph_facts(tiny_onnx)


@pytest.fixture
def with_engine(parts: Parts, datacenter_engine: Path) -> Parts:
    """The same with an engine for Triton's tensorrt backend."""
    return replace(parts, engines={"9.0": datacenter_engine})


def with_core(recipe: Recipe, core: str) -> Recipe:
    return with_serving(recipe, core=core)


def with_serving(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"serving": recipe.serving.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("max_tokens", "buckets"),
    [(8, [8]), (16, [16]), (17, [16, 17]), (64, [16, 32, 64]), (256, [16, 32, 64, 128, 256])],
)
def test_texts_are_padded_to_few_lengths_that_end_at_the_limit(max_tokens: int, buckets: list[int]):
    assert buckets_of(max_tokens) == buckets


def test_the_ensemble_has_the_interface_of_the_cpu_model(
    gpu_recipe: Recipe, proof: Proof, facts: GraphFacts
):
    ensemble, tokenizer, core = ensemble_configs(gpu_recipe, proof, facts, [])
    assert [c.name for c in (ensemble, tokenizer, core)] == [
        "search-encoder",
        "search-encoder-tokenizer",
        "search-encoder-core",
    ]
    assert [(t.name, t.data_type) for t in ensemble.input] == [("text", pb.TYPE_STRING)]
    assert [(t.name, list(t.dims)) for t in ensemble.output] == [
        ("embedding", [32]),
        ("token_count", [1]),
    ]


def test_the_core_batches_on_gpus_as_the_recipe_says(
    gpu_recipe: Recipe, proof: Proof, facts: GraphFacts
):
    core = ensemble_configs(gpu_recipe, proof, facts, [])[2]
    assert (core.platform, core.max_batch_size) == ("onnxruntime_onnx", 64)
    assert list(core.dynamic_batching.preferred_batch_size) == [16, 32]
    group = core.instance_group[0]
    assert (group.kind, group.count) == (pb.ModelInstanceGroup.KIND_GPU, 2)
    assert not core.dynamic_batching.HasField("default_queue_policy")


def accelerator_parameters(
    recipe: Recipe, proof: Proof, facts: GraphFacts, profiles: list[Profile]
) -> dict[str, str]:
    core = ensemble_configs(with_core(recipe, "onnxruntime_tensorrt"), proof, facts, profiles)[2]
    (accelerator,) = core.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    return dict(accelerator.parameters)


def test_tensorrt_inside_onnx_runtime_takes_every_shape_and_is_best_at_most_texts(
    gpu_recipe: Recipe, proof: Proof, facts: GraphFacts, served_shapes: list[Profile]
):
    found = accelerator_parameters(gpu_recipe, proof, facts, served_shapes)
    shapes = {"min": "1x1", "opt": "16x16", "max": "64x64"}
    for kind, shape in shapes.items():
        assert found[f"trt_profile_{kind}_shapes"] == ",".join(f"{n}:{shape}" for n in FEED)


def test_tensorrt_inside_onnx_runtime_computes_as_the_variant_was_measured(
    gpu_recipe: Recipe,
    proof: Proof,
    tiny_onnx: Path,
    served_shapes: list[Profile],
    tmp_path: Path,
):
    quantize_half(tiny_onnx, tmp_path)
    half = tmp_path / "model.onnx"
    for graph, mode in ((tiny_onnx, "FP32"), (half, "FP16")):
        found = accelerator_parameters(gpu_recipe, proof, graph_facts(graph), served_shapes)
        assert found["precision_mode"] == mode


def test_engines_that_onnx_runtime_builds_are_kept_on_a_volume_under_the_graphs_digest(
    gpu_recipe: Recipe, proof: Proof, tiny_onnx: Path, served_shapes: list[Profile]
):
    found = accelerator_parameters(gpu_recipe, proof, graph_facts(tiny_onnx), served_shapes)
    paths = {found[f"trt_{kind}_cache_path"] for kind in ("engine", "timing")}
    assert paths == {ENGINE_CACHE}
    assert sha256_file(tiny_onnx).startswith(found["trt_engine_cache_prefix"])
    compose = yaml.safe_load((ROOT / "docker/compose.gpu.yaml").read_text())
    mounts = [m for m in compose["services"]["triton"]["volumes"] if m["target"] == ENGINE_CACHE]
    assert [mount["type"] for mount in mounts] == ["volume"]
    assert {mount["source"] for mount in mounts} <= set(compose["volumes"])
    dockerfile = (ROOT / "docker/triton.Dockerfile").read_text()
    assert f"--owner=1000 --group=1000 {ENGINE_CACHE}" in dockerfile


@pytest.mark.parametrize("core", ["onnxruntime", "onnxruntime_tensorrt"])
def test_a_gpu_repository_lints_clean_and_its_configurations_parse(
    gpu_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path, core: str
):
    assemble(with_core(gpu_recipe, core), parts, proof, tmp_path)
    assert [finding.line for finding in lint(tmp_path) if "unsigned" not in finding.line] == []
    names = [read_config(path).name for path in sorted(tmp_path.glob("*/config.pbtxt"))]
    assert names == ["search-encoder", "search-encoder-core", "search-encoder-tokenizer"]
    assert read_manifest(tmp_path).target == "gpu"


def test_a_repository_with_a_tensorrt_core_lints_clean(
    gpu_recipe: Recipe, with_engine: Parts, proof: Proof, tmp_path: Path
):
    repository = tmp_path / "repository"
    assemble(with_core(gpu_recipe, "tensorrt"), with_engine, proof, repository)
    sign_repository(repository)
    assert lint(repository) == []
    assert lint(repository, compute_capability="9.0") == []
    (other,) = lint(repository, compute_capability="8.9")
    assert other.problem.endswith("is for compute capability 9.0 and the node has 8.9")
    assert other.fix == "build an engine for it"
    core = read_config(repository / "search-encoder-core/config.pbtxt")
    assert (core.platform, list(core.instance_group[0].profile)) == ("tensorrt_plan", ["0", "1"])


def test_a_profile_that_ends_before_the_longest_text_is_found_by_lint(
    gpu_recipe: Recipe, with_engine: Parts, proof: Proof, tmp_path: Path
):
    assemble(with_core(gpu_recipe, "tensorrt"), with_engine, proof, tmp_path)
    path = tmp_path / "search-encoder-core/1/model.json"
    described = json.loads(path.read_text())
    described["engine"]["profiles"][1]["max"] = [64, 48]
    path.write_text(json.dumps(described))
    (found,) = (f for f in lint(tmp_path) if f.where == "search-encoder-core/1/model.plan")
    assert "takes 64 texts of 64 tokens, its profiles end at 64 x 32, 64 x 48" in found.problem


def test_the_core_is_warmed_up_in_every_length_with_every_batch_that_is_preferred(
    gpu_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path
):
    assemble(gpu_recipe, parts, proof, tmp_path)
    core = tmp_path / "search-encoder-core"
    samples = read_config(core / "config.pbtxt").model_warmup
    shapes = {(sample.batch_size, sample.inputs["input_ids"].dims[0]) for sample in samples}
    assert shapes == {(batch, tokens) for batch in (1, 16, 32, 64) for tokens in (16, 32, 64)}
    for sample in samples:
        assert set(sample.inputs) == set(FEED)
        for tensor in sample.inputs.values():
            stored = (core / "warmup" / tensor.input_data_file).read_bytes()
            assert len(stored) == 8 * tensor.dims[0]
    ids = np.frombuffer((core / "warmup/input_ids-64.bin").read_bytes(), dtype="<i8")
    assert (ids > 0).all()


def test_vectors_in_fewer_bits_are_refused_on_gpus(
    gpu_recipe: Recipe, proof: Proof, facts: GraphFacts
):
    with pytest.raises(PackageError, match="needs target: cpu"):
        ensemble_configs(with_serving(gpu_recipe, vectors="int8"), proof, facts, [])


def test_a_tensorrt_core_needs_exactly_one_engine(
    gpu_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path
):
    with pytest.raises(PackageError, match="packages one engine and 0 were built"):
        assemble(with_core(gpu_recipe, "tensorrt"), parts, proof, tmp_path)


def test_an_engine_that_cannot_take_the_largest_batch_is_not_packaged(
    gpu_recipe: Recipe, with_engine: Parts, proof: Proof, tmp_path: Path
):
    recipe = with_serving(gpu_recipe, core="tensorrt", max_batch_size=128)
    with pytest.raises(EngineError, match=r"takes 128 texts of 64 tokens.*64 x 32, 64 x 64"):
        assemble(recipe, with_engine, proof, tmp_path / "repository")


def test_an_engine_for_another_gpu_than_the_recipe_names_is_not_packaged(
    gpu_recipe: Recipe, with_engine: Parts, proof: Proof, tmp_path: Path
):
    named = TensorRT(builder="tensorrt", compute_capabilities=("8.9",))
    recipe = with_core(gpu_recipe, "tensorrt").model_copy(update={"tensorrt": named})
    with pytest.raises(EngineError, match=r"capability 9\.0 and the node has 8\.9"):
        assemble(recipe, with_engine, proof, tmp_path / "repository")


def test_an_engine_of_another_graph_is_not_packaged(
    gpu_recipe: Recipe, with_engine: Parts, proof: Proof, tmp_path: Path
):
    quantize_half(with_engine.graph, tmp_path)
    parts = replace(with_engine, graph=tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="was built from another graph"):
        assemble(with_core(gpu_recipe, "tensorrt"), parts, proof, tmp_path / "repository")
