"""One wrong thing at a time in a repository that was clean."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2 as pb

from optimize.errors import PackageError
from optimize.lint import lint
from optimize.package import Parts, assemble
from optimize.proof import Proof
from optimize.recipe import Recipe
from optimize.sign import sign_repository
from optimize.triton_config import read_config, write_config

NAME = "search-encoder"
CORE = f"{NAME}-core"

Edit = Callable[[pb.ModelConfig], None]


def package(
    recipe: Recipe, tiny_onnx: Path, tiny_model: Path, proof: Proof, repository: Path
) -> Path:
    parts = Parts(tiny_onnx, tiny_model / "tokenizer.json", data_sets=[], packages=[])
    assemble(recipe, parts, proof, repository)
    sign_repository(repository)
    return repository


@pytest.fixture
def cpu(
    tiny_recipe: Recipe, tiny_onnx: Path, tiny_model: Path, proof: Proof, tmp_path: Path
) -> Path:
    return package(tiny_recipe, tiny_onnx, tiny_model, proof, tmp_path / "cpu")


@pytest.fixture
def gpu(
    tiny_recipe: Recipe, tiny_onnx: Path, tiny_model: Path, proof: Proof, tmp_path: Path
) -> Path:
    recipe = tiny_recipe.model_copy(update={"target": "gpu"})
    return package(recipe, tiny_onnx, tiny_model, proof, tmp_path / "gpu")


@pytest.fixture
def foreign(gpu: Path) -> Path:
    """Somebody else's repository: without a manifest, so that only the named findings remain."""
    for name in ("manifest.json", "model.sig", "LICENCES.md", "sbom.cdx.json"):
        (gpu / name).unlink()
    return gpu


def lines(repository: Path) -> list[str]:
    return [f.line for f in lint(repository) if f.where != "manifest.json"]


def edit(folder: Path, change: Edit) -> None:
    path = folder / "config.pbtxt"
    config = read_config(path)
    change(config)
    write_config(path, config)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_what_is_packaged_is_clean(target: str, request: pytest.FixtureRequest):
    assert lint(request.getfixturevalue(target)) == []


def test_a_flipped_byte_is_an_error_that_names_the_file(cpu: Path):
    path = cpu / NAME / "1/tokenizer.json"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(bytes(content))
    tampered, unreadable = lint(cpu)
    assert {tampered.severity, unreadable.severity} == {"error"}
    assert f"changed: {NAME}/1/tokenizer.json" in tampered.line
    assert "1/tokenizer.json: cannot be read" in unreadable.line


def test_a_repository_without_its_signature_is_an_error(cpu: Path):
    (cpu / "model.sig").unlink()
    assert lines(cpu) == ["error: model.sig: unsigned: run `python -m optimize sign`"]


def test_a_foreign_repository_is_only_warned_of(foreign: Path):
    assert [finding.severity for finding in lint(foreign)] == ["warning"]


def test_a_folder_without_models_is_refused(tmp_path: Path):
    with pytest.raises(PackageError, match="no model at"):
        lint(tmp_path)


def rename(config: pb.ModelConfig) -> None:
    config.name = "another"


def fix_the_batch(config: pb.ModelConfig) -> None:
    config.max_batch_size = 0


def widen(config: pb.ModelConfig) -> None:
    config.output[0].dims[0] = 999


def retype(config: pb.ModelConfig) -> None:
    config.input[0].data_type = pb.TYPE_INT32


def rename_tensor(config: pb.ModelConfig) -> None:
    config.input[0].name = "tokens"


def prefer_too_much(config: pb.ModelConfig) -> None:
    config.dynamic_batching.preferred_batch_size.append(1000)


def override_timeouts(config: pb.ModelConfig) -> None:
    config.dynamic_batching.default_queue_policy.allow_timeout_override = True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "the name is 'another' and the folder 'search-encoder-core'"),
        (fix_the_batch, "dynamic batching with max_batch_size 0"),
        (widen, "embedding has dims [999] and the graph, without the batch, [32]"),
        (retype, "input_ids is TYPE_INT32 and the graph says TYPE_INT64"),
        (rename_tensor, "the graph has no input tokens, which is declared"),
        (rename_tensor, "the graph's input input_ids is not declared"),
        (prefer_too_much, "preferred batch size 1000 is above max_batch_size 64"),
        (override_timeouts, "allow_timeout_override is set"),
    ],
)
def test_a_configuration_that_does_not_fit_is_found(foreign: Path, change: Edit, words: str):
    edit(foreign / CORE, change)
    assert any(words in line for line in lines(foreign)), lines(foreign)


def lose_a_step(config: pb.ModelConfig) -> None:
    config.ensemble_scheduling.step[1].model_name = "nobody"


def cut_the_flow(config: pb.ModelConfig) -> None:
    config.ensemble_scheduling.step[1].input_map["input_ids"] = "nothing"


def starve_a_step(config: pb.ModelConfig) -> None:
    del config.ensemble_scheduling.step[1].input_map["attention_mask"]


def promise_too_much(config: pb.ModelConfig) -> None:
    config.output.add(name="extra", data_type=pb.TYPE_FP32, dims=[1])


def batch_too_much(config: pb.ModelConfig) -> None:
    config.max_batch_size = 512


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose_a_step, "the step nobody is not in the repository"),
        (cut_the_flow, "the step search-encoder-core is never reached: nothing makes nothing"),
        (starve_a_step, "the input attention_mask of search-encoder-core is not fed"),
        (promise_too_much, "no step gives the output extra"),
        (batch_too_much, "max_batch_size 512 and the step search-encoder-core takes 64"),
    ],
)
def test_an_ensemble_that_does_not_hang_together_is_found(foreign: Path, change: Edit, words: str):
    edit(foreign / NAME, change)
    assert any(words in line for line in lines(foreign)), lines(foreign)


def retype_the_output(config: pb.ModelConfig) -> None:
    config.output[0].data_type = pb.TYPE_FP16


def widen_an_input(config: pb.ModelConfig) -> None:
    config.input[1].dims.append(4)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        (NAME, retype_the_output, f"embedding is TYPE_FP32 in {CORE} and TYPE_FP16 in {NAME}"),
        (NAME, widen, f"embedding has dims [-1, 32] in {CORE} and [-1, 999] in {NAME}"),
        (CORE, retype, f"input_ids is TYPE_INT32 in {CORE} and TYPE_INT64 in {NAME}-tokenizer"),
        (
            CORE,
            widen_an_input,
            f"attention_mask has dims [-1, -1, 4] in {CORE} and [-1, -1] in {NAME}-tokenizer",
        ),
    ],
)
def test_a_step_with_another_type_or_other_dims_is_found(
    foreign: Path, part: str, change: Edit, words: str
):
    edit(foreign / part, change)
    (found,) = (f for f in lint(foreign) if words in f.problem)
    assert found.where == f"{NAME}/config.pbtxt"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (f"{CORE}/1/model.onnx", "1/model.onnx: the model's file is missing"),
        (f"{CORE}/warmup/input_ids-16.bin", "the warm-up file is missing"),
        (f"{NAME}-tokenizer/1/model.py", "1/model.py: the model's file is missing"),
        (f"{CORE}/1", "there is no version folder"),
        (f"{NAME}/config.pbtxt", "config.pbtxt: there is none"),
    ],
)
def test_a_missing_file_is_found(foreign: Path, missing: str, words: str):
    path = foreign / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert any(words in line for line in lines(foreign)), lines(foreign)


def test_a_configuration_that_cannot_be_parsed_is_found(foreign: Path):
    (foreign / NAME / "config.pbtxt").write_text("name: [")
    assert any("cannot be parsed" in line for line in lines(foreign))


def test_weights_that_are_not_numbers_are_found(foreign: Path):
    path = foreign / CORE / "1/model.onnx"
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    spoiled = numpy_helper.to_array(tensor).copy()
    spoiled.flat[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(spoiled, tensor.name))
    onnx.save(model, path)
    assert any("holds NaN" in line for line in lines(foreign))


def test_an_engine_of_unknown_origin_is_found(foreign: Path):
    edit(foreign / CORE, lambda config: setattr(config, "backend", "tensorrt"))
    (foreign / CORE / "1/model.plan").write_bytes(b"an engine")
    assert any("says what it was built for" in line for line in lines(foreign))


def test_the_fix_of_a_finding_is_whole_whatever_stands_in_it(
    foreign: Path, datacenter_engine: Path
):
    put_engine_behind(foreign, datacenter_engine)
    rewrite_metadata(foreign, builder="tensorrt_rtx")
    (found,) = (f for f in lint(foreign) if "cannot load it" in f.problem)
    assert found.fix == "build with tensorrt.builder: tensorrt"
    assert found.problem.endswith("and Triton's tensorrt backend cannot load it")


@pytest.mark.parametrize(
    ("metadata", "change", "words"),
    [
        ({"builder_version": ""}, None, "does not say which version of TensorRT built it"),
        ({}, batch_too_much, "takes 512 texts of 16 tokens, its profiles end at 64 x 32, 64 x 64"),
        ({}, widen, "embedding has dims [999] and the engine, without the batch, [32]"),
        ({}, retype, "input_ids is TYPE_INT32 and the engine says TYPE_INT64"),
    ],
)
def test_an_engine_that_cannot_answer_what_its_configuration_says_is_found(
    foreign: Path,
    datacenter_engine: Path,
    metadata: dict[str, str],
    change: Edit | None,
    words: str,
):
    put_engine_behind(foreign, datacenter_engine)
    assert not any("1/model.plan" in line for line in lines(foreign)), lines(foreign)
    rewrite_metadata(foreign, **metadata)
    if change is not None:
        edit(foreign / CORE, change)
    assert any("1/model.plan" in line and words in line for line in lines(foreign)), lines(foreign)


def put_engine_behind(repository: Path, engine: Path) -> None:
    """Triton's tensorrt backend with this engine instead of the graph."""

    def use_tensorrt(config: pb.ModelConfig) -> None:
        config.platform, config.backend = "tensorrt_plan", "tensorrt"

    edit(repository / CORE, use_tensorrt)
    shutil.copyfile(engine, repository / CORE / "1/model.plan")
    shutil.copyfile(engine.with_suffix(".json"), repository / CORE / "1/model.json")


def rewrite_metadata(repository: Path, **engine: str) -> None:
    path = repository / CORE / "1/model.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"engine": found["engine"] | engine}))
