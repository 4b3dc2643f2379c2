"""The GPU ensemble on the real Triton, its core replaced by the same graph on ONNX Runtime's CPU provider."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from models.manifest import read_manifest
from models.triton.text_encoder.encoder import Encoded, TextEncoder
from optimize import bench_gpu
from optimize.bench_triton import connect
from optimize.ensemble import core_name
from optimize.load import fetch_source, source_identity
from optimize.package import Parts, assemble
from optimize.proof import Proof
from optimize.recipe import Recipe
from optimize.steps import Workspace
from serving.triton.launch import run_triton

pytestmark = pytest.mark.triton

ROOT = Path(__file__).resolve().parents[2]
NOT_UTF_8 = b"caf\xe9"


@pytest.fixture(scope="module")
def encoder(packaged_repository: Path) -> TextEncoder:
    """The same model as it is served on a CPU."""
    manifest = read_manifest(packaged_repository)
    return TextEncoder.from_directory(packaged_repository / manifest.name / "1")


@pytest.fixture(scope="module")
def ensemble(
    packaged_repository: Path,
    small_recipe: Recipe,
    put_on_cpu: Callable[[Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The GPU repository of the packaged model, with a core that runs here."""
    repository = tmp_path_factory.mktemp("ensemble") / "repository"
    manifest = read_manifest(packaged_repository)
    version = packaged_repository / manifest.name / "1"
    known = manifest.model_dump(include=set(Proof.model_fields))
    parts = Parts(version / "model.onnx", version / "tokenizer.json", data_sets=[], packages=[])
    recipe = small_recipe.model_copy(update={"target": "gpu"})
    assemble(recipe, parts, Proof.model_validate(known), repository)
    put_on_cpu(repository / core_name(recipe.name))
    return repository


@pytest.fixture(scope="module")
def address(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the ensemble is served by gRPC."""
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    with run_triton(ensemble, log_path=log, unverified=True) as triton:
        yield triton.grpc_url


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(address) as client:
        yield client


def ask(client: triton_grpc.InferenceServerClient, texts: Sequence[str | bytes]) -> Encoded:
    raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
    tensor = triton_grpc.InferInput("text", [len(raw), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(raw, dtype=object).reshape(-1, 1))
    reply = client.infer("search-encoder", [tensor])
    return Encoded(reply.as_numpy("embedding"), reply.as_numpy("token_count").ravel())


def texts_of(number: int) -> list[str]:
    return [f"what is number {index} " + "and so on " * (index % 9) for index in range(number)]


def alike(answered: Encoded, expected: Encoded) -> bool:
    """INT8 scales its activations by the batch, which padding changes a little."""
    cosines = (answered.outputs * expected.outputs).sum(axis=1)
    counts = answered.token_counts.tolist() == expected.token_counts.tolist()
    return bool(cosines.min() > 0.95) and counts


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_ensemble_answers_like_the_cpu_model(
    client: triton_grpc.InferenceServerClient, encoder: TextEncoder, size: int
):
    texts = texts_of(size)
    assert alike(ask(client, texts), encoder.encode(texts))


@pytest.mark.parametrize("text", ["", "long " * 2000, "ümläut, 漢字 and \U0001f680"])
def test_unusual_texts_are_answered_too(
    client: triton_grpc.InferenceServerClient, encoder: TextEncoder, text: str
):
    assert alike(ask(client, [text]), encoder.encode([text]))


def test_a_text_that_is_not_utf_8_is_refused(client: triton_grpc.InferenceServerClient):
    with pytest.raises(InferenceServerException, match="text is not UTF-8"):
        ask(client, [NOT_UTF_8])


def test_requests_of_equal_length_share_runs_of_the_core(
    client: triton_grpc.InferenceServerClient, encoder: TextEncoder
):
    texts = texts_of(48)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda text: ask(client, [text]), texts))
    for text, answer in zip(texts, answers, strict=True):
        assert alike(answer, encoder.encode([text]))
    core = client.get_inference_statistics(core_name("search-encoder"), as_json=True)
    counted = core["model_stats"][0]
    assert int(counted["execution_count"]) < int(counted["inference_count"])


def test_the_gpu_bench_compares_the_core_behind_the_batcher_with_direct_calls(
    address: str, ensemble: Path, small_recipe: Recipe, tmp_path: Path
):
    workspace = Workspace(ROOT / "build/cache", lambda *_: None)
    fetch = partial(fetch_source, small_recipe)
    source = workspace.step("load", source_identity(small_recipe), fetch).directory
    core = core_name("search-encoder")
    graph = ensemble / core / "1/model.onnx"
    places = ["--source", str(source), "--graph", f"int8={graph}", "--triton", address]
    sizes = ["--batch-sizes", "8", "--lengths", "16", "--rounds", "2", "--calls", "2"]
    rest = ["--device", "cpu", "--no-compile", "--output", str(tmp_path / "gpu.json")]
    assert bench_gpu.main([*places, "--triton-model", f"int8={core}", *sizes, *rest]) == 0
    (found,) = json.loads((tmp_path / "gpu.json").read_text())["triton"]
    assert [found[name] for name in ("graph", "model", "callers", "tokens")] == [
        "int8",
        core,
        8,
        16,
    ]
    assert found["texts_per_execution"] > 1
    assert set(found["texts_per_s"]) == {"triton", "one", "batched"}
    for ratio in (found["against_one_by_one"], found["against_batches"]):
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
    # INT8 scales its activations by the batch, so one text's vector depends a little on the others.
    assert 0 <= found["max_abs_error"] < 0.2


def test_the_gpu_bench_says_what_to_start_where_no_model_answers(address: str):
    with pytest.raises(SystemExit, match=r"no model nobody at .*start Triton on the repository"):
        connect(address, "nobody")
