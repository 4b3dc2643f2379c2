from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2 as pb

from models.manifest import read_manifest
from models.triton.text_encoder.tokens import FEED
from optimize.ensemble import buckets_of, ensemble_configs
from optimize.errors import PackageError
from optimize.lint import lint
from optimize.package import Parts, assemble
from optimize.proof import Proof
from optimize.recipe import Recipe
from optimize.triton_config import read_config


@pytest.fixture
def gpu_recipe(tiny_recipe: Recipe) -> Recipe:
    serving = tiny_recipe.serving.model_copy(
        update={"preferred_batch_sizes": (16, 32), "instances": 2}
    )
    return tiny_recipe.model_copy(update={"target": "gpu", "serving": serving})


@pytest.fixture
def parts(tiny_onnx: Path, tiny_model: Path) -> Parts:
    return Parts(tiny_onnx, tiny_model / "tokenizer.json", data_sets=[], packages=[])


def with_core(recipe: Recipe, core: str) -> Recipe:
    return recipe.model_copy(update={"serving": recipe.serving.model_copy(update={"core": core})})


@pytest.mark.parametrize(
    ("max_tokens", "buckets"),
    [(8, [8]), (16, [16]), (17, [16, 17]), (64, [16, 32, 64]), (256, [16, 32, 64, 128, 256])],
)
def test_texts_are_padded_to_few_lengths_that_end_at_the_limit(max_tokens: int, buckets: list[int]):
    assert buckets_of(max_tokens) == buckets


def test_the_ensemble_has_the_interface_of_the_cpu_model(gpu_recipe: Recipe, proof: Proof):
    ensemble, tokenizer, core = ensemble_configs(gpu_recipe, proof, FEED)
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


def test_the_core_batches_on_gpus_as_the_recipe_says(gpu_recipe: Recipe, proof: Proof):
    core = ensemble_configs(gpu_recipe, proof, FEED)[2]
    assert (core.platform, core.max_batch_size) == ("onnxruntime_onnx", 64)
    assert list(core.dynamic_batching.preferred_batch_size) == [16, 32]
    group = core.instance_group[0]
    assert (group.kind, group.count) == (pb.ModelInstanceGroup.KIND_GPU, 2)
    assert not core.dynamic_batching.HasField("default_queue_policy")


def test_tensorrt_inside_onnx_runtime_is_a_matter_of_the_configuration(
    gpu_recipe: Recipe, proof: Proof
):
    recipe = with_core(gpu_recipe, "onnxruntime_tensorrt")
    core = ensemble_configs(recipe, proof, FEED)[2]
    (accelerator,) = core.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP16"
    assert accelerator.parameters["trt_profile_max_shapes"] == ",".join(
        f"{name}:64x64" for name in FEED
    )


@pytest.mark.parametrize("core", ["onnxruntime", "onnxruntime_tensorrt"])
def test_a_gpu_repository_lints_clean_and_its_configurations_parse(
    gpu_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path, core: str
):
    assemble(with_core(gpu_recipe, core), parts, proof, tmp_path)
    assert [finding.line for finding in lint(tmp_path) if "unsigned" not in finding.line] == []
    names = [read_config(path).name for path in sorted(tmp_path.glob("*/config.pbtxt"))]
    assert names == ["search-encoder", "search-encoder-core", "search-encoder-tokenizer"]
    assert read_manifest(tmp_path).target == "gpu"


def test_the_core_is_warmed_up_with_the_ids_of_a_real_text(
    gpu_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path
):
    assemble(gpu_recipe, parts, proof, tmp_path)
    stored = tmp_path / "search-encoder-core/warmup/input_ids.bin"
    ids = np.frombuffer(stored.read_bytes(), dtype="<i8")
    assert len(ids) == 16
    assert (ids > 0).any()


def test_vectors_in_fewer_bits_are_refused_on_gpus(gpu_recipe: Recipe, proof: Proof):
    serving = gpu_recipe.serving.model_copy(update={"vectors": "int8"})
    with pytest.raises(PackageError, match="needs target: cpu"):
        ensemble_configs(gpu_recipe.model_copy(update={"serving": serving}), proof, FEED)


def test_a_tensorrt_core_needs_exactly_one_engine(
    gpu_recipe: Recipe, parts: Parts, proof: Proof, tmp_path: Path
):
    with pytest.raises(PackageError, match="packages one engine and 0 were built"):
        assemble(with_core(gpu_recipe, "tensorrt"), parts, proof, tmp_path)
