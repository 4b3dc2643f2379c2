"""The files of an ensemble's core: a graph, or an engine that was proved to fit where it is put."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from models.manifest import Engine
from optimize.engine import Place, check_engine, read_engine, write_engine
from optimize.ensemble import buckets_of, core_name
from optimize.errors import PackageError
from optimize.graph_facts import graph_facts
from optimize.quantize.fuse import runtime_operators
from optimize.recipe import Recipe
from optimize.triton_config import MODEL_VERSION

GRAPH, PLAN = "model.onnx", "model.plan"


def fill_core(
    recipe: Recipe, graph: Path, engines: Sequence[Path], config: pb.ModelConfig, repository: Path
) -> None:
    """Put what `config` serves into the core's folder. Raises PackageError, EngineError."""
    if recipe.serving.core == "tensorrt":
        place_engine(recipe, graph, engines, config, repository)
        return
    if fused := runtime_operators(graph):
        refuse_fused(recipe, fused)
    shutil.copyfile(graph, repository / config.name / str(MODEL_VERSION) / GRAPH)


def place_engine(
    recipe: Recipe, graph: Path, engines: Sequence[Path], config: pb.ModelConfig, repository: Path
) -> None:
    """The one engine, checked, with its metadata beside it."""
    if len(engines) != 1:
        raise PackageError(
            f"serving.core: tensorrt packages one engine and {len(engines)} were built: name one GPU "
            "in tensorrt.compute_capabilities, or build on the node itself"
        )
    (plan,) = engines
    found = read_engine(plan)
    place = Place(
        backend="tensorrt",
        config=config,
        token_lengths=buckets_of(recipe.max_tokens),
        compute_capability=asked_capability(recipe),
        graph_sha256=graph_facts(graph).sha256,
    )
    check_engine(found, place)
    engine = packaged_engine(recipe, found.engine)
    write_engine(repository, plan.read_bytes(), engine, found.graph_sha256, found.tensors)


def asked_capability(recipe: Recipe) -> str | None:
    """The GPU that the recipe names; None where it leaves that to the machine that builds."""
    asked = recipe.tensorrt.compute_capabilities if recipe.tensorrt else ()
    return asked[0] if len(asked) == 1 else None


def packaged_engine(recipe: Recipe, engine: Engine) -> Engine:
    """An engine as the manifest names it: by its path in the repository."""
    path = f"{core_name(recipe.name)}/{MODEL_VERSION}/{PLAN}"
    return engine.model_copy(update={"path": path})


def refuse_fused(recipe: Recipe, operators: set[str]) -> None:
    """Raise PackageError where TensorRT would meet operators that only ONNX Runtime has."""
    if recipe.serving.core == "onnxruntime_tensorrt":
        raise PackageError(
            f"TensorRT cannot take {', '.join(sorted(operators))}: package a variant without -fused, or "
            "set serving.core: onnxruntime"
        )
