"""One wrong thing at a time in an engine that fitted its place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from models.files import sha256_file
from optimize.engine import EngineFile, Place, check_engine, engine_problems, read_engine
from optimize.ensemble import buckets_of, core_config
from optimize.errors import EngineError
from optimize.graph_facts import graph_facts
from optimize.proof import Proof
from optimize.recipe import Recipe


@pytest.fixture
def found(datacenter_engine: Path) -> EngineFile:
    return read_engine(datacenter_engine)


@pytest.fixture
def place(found: EngineFile, tiny_recipe: Recipe, tiny_onnx: Path, proof: Proof) -> Place:
    """Where the engine of the tiny model belongs."""
    serving = tiny_recipe.serving.model_copy(update={"core": "tensorrt"})
    recipe = tiny_recipe.model_copy(update={"target": "gpu", "serving": serving})
    return Place(
        backend="tensorrt",
        config=core_config(recipe, proof, graph_facts(tiny_onnx), found.engine.profiles),
        token_lengths=buckets_of(recipe.max_tokens),
        compute_capability="9.0",
        graph_sha256=sha256_file(tiny_onnx),
    )


def changed(found: EngineFile, **engine: Any) -> EngineFile:
    return found.model_copy(update={"engine": found.engine.model_copy(update=engine)})


def test_an_engine_that_fits_its_place_has_no_problem(found: EngineFile, place: Place):
    assert list(engine_problems(found, place)) == []


def test_what_is_not_known_of_a_place_is_not_checked(found: EngineFile):
    check_engine(found, Place("tensorrt"))


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"builder": "tensorrt_rtx"}, r"and Triton's tensorrt backend cannot load it: build with"),
        ({"builder_version": ""}, "does not say which version of TensorRT built it"),
        ({"compute_capability": "8.9"}, r"capability 8\.9 and the node has 9\.0: build an engine"),
        (
            {"profiles": [{"min": [1, 1], "opt": [16, 16], "max": [32, 64]}] * 2},
            r"takes 64 texts of 64 tokens, its profiles end at 32 x 64, 32 x 64: build it again",
        ),
        (
            {"profiles": [{"min": [1, 1], "opt": [16, 16], "max": [64, 32]}] * 2},
            r"takes 64 texts of 64 tokens, its profiles end at 64 x 32",
        ),
        (
            {"profiles": [{"min": [2, 1], "opt": [16, 16], "max": [64, 64]}] * 2},
            "takes 1 texts of 64 tokens",
        ),
        (
            {"profiles": [{"min": [1, 1], "opt": [16, 16], "max": [64, 64]}]},
            r"instances ask for profile 1 of sm_9\.0\.plan, which has 1",
        ),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_in_words(
    found: EngineFile, place: Place, engine: dict[str, Any], words: str
):
    with pytest.raises(EngineError, match=words):
        check_engine(changed(found, **engine), place)


def test_an_engine_of_another_graph_is_refused(found: EngineFile, place: Place):
    with pytest.raises(EngineError, match="was built from another graph"):
        check_engine(found, replace(place, graph_sha256="0" * 64))


def rename(config: pb.ModelConfig) -> None:
    config.input[0].name = "tokens"


def retype(config: pb.ModelConfig) -> None:
    config.output[0].data_type = pb.TYPE_FP16


def widen(config: pb.ModelConfig) -> None:
    config.output[0].dims[0] = 384


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "the engine has no input tokens, which is declared: name one of input_ids"),
        (retype, "embedding is TYPE_FP16 and the engine says TYPE_FP32: declare"),
        (widen, r"embedding has dims \[384\] and the engine, without the batch, \[32\]: declare"),
    ],
)
def test_an_engine_with_other_tensors_than_its_configuration_is_refused(
    found: EngineFile, place: Place, change: Callable[[pb.ModelConfig], None], words: str
):
    assert place.config is not None
    change(place.config)
    with pytest.raises(EngineError, match=words):
        check_engine(found, place)
