"""The real model made worse and made slower on purpose: measured, and judged for what it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.files import sha256_file
from models.manifest import EMBEDDING_OUTPUT
from optimize.build import build
from optimize.data import data_folder, folder_digests
from optimize.gate import Decision
from optimize.measure import (
    Candidates,
    collect_evidence,
    judge,
    measure_footprints,
    measure_quality,
    measure_speeds,
)
from optimize.recipe import Recipe
from optimize.sections import Gate, SpeedRun
from optimize.steps import Step, Workspace
from optimize.tasks import TASKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[3]
GATE = Gate(max_relative_loss={"ndcg@10": 0.1}, min_speedup={1: 0.5})
USELESS = 1500  # rows and columns of a matrix that is multiplied with itself for nothing

Spoil = Callable[[onnx.ModelProto], None]


def randomize_a_layer(model: onnx.ModelProto) -> None:
    """Random weights of the same size in the products of the third layer."""
    rng = np.random.default_rng(0)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type == "MatMul" and "layer.2/" in n.name]
    weights = [held[name] for node in products for name in node.input if name in held]
    assert len(weights) == 6
    for tensor in weights:
        values = numpy_helper.to_array(tensor)
        random = rng.normal(0, 5 * values.std(), values.shape).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(random, tensor.name))


def waste_time(model: onnx.ModelProto) -> None:
    """Add to the vectors what takes long to find out to be zero."""
    (last,) = (node for node in model.graph.node if EMBEDDING_OUTPUT in node.output)
    last.output[:] = ["vectors"]
    make = helper.make_node
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros((), np.float32), "nothing"),
            numpy_helper.from_array(np.ones((USELESS, USELESS), np.float32), "ones"),
        ]
    )
    model.graph.node.extend(
        [
            make("ReduceMax", ["vectors"], ["largest"], keepdims=0),
            make("Mul", ["largest", "nothing"], ["zero"]),
            make("Mul", ["ones", "zero"], ["zeros"]),
            make("MatMul", ["zeros", "ones"], ["once"]),
            make("MatMul", ["once", "ones"], ["twice"]),
            make("ReduceMax", ["twice"], ["found"], keepdims=0),
            make("Add", ["vectors", "found"], [EMBEDDING_OUTPUT]),
        ]
    )
    assert last.output[0] == "vectors"
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def spoiled(step: Step, spoil: Spoil, folder: Path) -> Step:
    folder.mkdir()
    model = onnx.load(step.directory / "model.onnx")
    spoil(model)
    onnx.save(model, folder / "model.onnx")
    return replace(step, directory=folder, digest=sha256_file(folder / "model.onnx"))


@pytest.fixture(scope="module")
def candidates(small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    """The source's own graph as it is, with a random layer (as `int8`) and slower (as `qdq`)."""
    speed = SpeedRun(batch_sizes=(1,), rounds=4, token_lengths=(16,), length_rounds=4)
    recipe = small_recipe.model_copy(update={"variants": ("fp32",), "gate": GATE, "speed": speed})
    workspace = Workspace(ROOT / "build/cache", lambda *_: None)
    folder = data_folder(recipe.evaluation.data, workspace)
    data = TASKS["embed"].read(folder, recipe.evaluation)
    built = build(recipe, workspace, data)
    good, tmp = built.variants["fp32"], tmp_path_factory.mktemp("spoiled")
    variants = {
        "fp32": good,
        "int8": spoiled(good, randomize_a_layer, tmp / "worse"),
        "qdq": spoiled(good, waste_time, tmp / "slower"),
    }
    return Candidates(recipe, data, folder_digests(folder), [], replace(built, variants=variants))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("measured"), lambda *_: None)


def decisions(candidates: Candidates, workspace: Workspace) -> dict[str, Decision]:
    quality = measure_quality(candidates, workspace)
    speed = measure_speeds(candidates, workspace)
    footprint = measure_footprints(candidates, workspace)
    evidence = collect_evidence(candidates, quality, speed, footprint)
    return {each.variant: each for each in judge(candidates, quality, evidence)}


def test_the_worse_and_the_slower_are_rejected_each_for_its_own_reason(
    candidates: Candidates, workspace: Workspace
):
    found = decisions(candidates, workspace)
    assert found["fp32"].verdict == "accepted"
    (worse,), (slower,) = found["int8"].reasons, found["qdq"].reasons
    assert {found["int8"].verdict, found["qdq"].verdict} == {"rejected"}
    assert worse.startswith("ndcg@10 loss ")
    assert slower.startswith("too slow: ")


def test_too_few_questions_are_not_enough_data_for_any_of_them(
    candidates: Candidates, workspace: Workspace
):
    evaluation = candidates.recipe.evaluation.model_copy(update={"min_questions": 100_000})
    strict = candidates.recipe.model_copy(update={"evaluation": evaluation})
    found = decisions(replace(candidates, recipe=strict), workspace)
    assert {decision.verdict for decision in found.values()} == {"not enough data"}
    assert "the recipe asks for 100000" in found["fp32"].reasons[0]
