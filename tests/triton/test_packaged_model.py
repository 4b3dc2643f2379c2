"""A packaged repository on the real Triton: it answers like the encoder that was measured."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from models.manifest import (
    EMBEDDING_OUTPUT,
    TEXT_INPUT,
    TOKEN_COUNT_OUTPUT,
    Manifest,
    read_manifest,
)
from models.triton.text_encoder.encoder import Encoded, TextEncoder
from serving.triton.launch import run_triton

pytestmark = pytest.mark.triton

DEADLINE_S = 60.0
NOT_UTF_8 = b"caf\xe9"

Ask = Callable[[Sequence[str | bytes]], Encoded]


@pytest.fixture(scope="module")
def manifest(packaged_repository: Path) -> Manifest:
    return read_manifest(packaged_repository)


@pytest.fixture(scope="module")
def version_directory(packaged_repository: Path, manifest: Manifest) -> Path:
    return packaged_repository / manifest.name / str(manifest.version)


@pytest.fixture(scope="module")
def encoder(version_directory: Path) -> TextEncoder:
    """The packaged encoder in this process."""
    return TextEncoder.from_directory(version_directory)


@pytest.fixture(scope="module")
def client(
    packaged_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[triton_grpc.InferenceServerClient]:
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    with (
        run_triton(packaged_repository, log_path=log) as triton,
        triton_grpc.InferenceServerClient(triton.grpc_url) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def ask(client: triton_grpc.InferenceServerClient, manifest: Manifest) -> Ask:
    """One request with these texts."""

    def ask(texts: Sequence[str | bytes]) -> Encoded:
        raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
        tensor = triton_grpc.InferInput(TEXT_INPUT, [len(raw), 1], "BYTES")
        tensor.set_data_from_numpy(np.array(raw, dtype=object).reshape(-1, 1))
        reply = client.infer(manifest.name, [tensor])
        return Encoded(reply.as_numpy(EMBEDDING_OUTPUT), reply.as_numpy(TOKEN_COUNT_OUTPUT))

    return ask


@pytest.fixture(scope="module")
def statistics(
    client: triton_grpc.InferenceServerClient, manifest: Manifest
) -> Callable[[], dict[str, object]]:
    """Triton's own counts of the model."""

    def read() -> dict[str, object]:
        reply = client.get_inference_statistics(manifest.name, as_json=True)
        return reply["model_stats"][0]

    return read


def questions(number: int) -> list[str]:
    """Texts of different lengths, none of them like another."""
    return [f"what is number {index} " + "and so on " * (index % 7) for index in range(number)]


def test_every_batch_size_was_warmed_up_before_the_first_request(
    statistics: Callable[[], dict[str, object]], manifest: Manifest
):
    # A model that has answered less than one batch of each size would not be ready for traffic.
    warmed_up = {int(batch["batch_size"]) for batch in statistics()["batch_stats"]}
    assert {1, 8, manifest.max_batch_size} <= warmed_up


def test_a_request_of_any_size_is_answered_like_the_encoder_that_was_measured(
    ask: Ask, encoder: TextEncoder, manifest: Manifest
):
    for size in range(1, manifest.max_batch_size + 1):
        texts = questions(size)
        answered, expected = ask(texts), encoder.encode(texts)
        assert answered.outputs.shape == (size, manifest.output_dim)
        np.testing.assert_allclose(answered.outputs, expected.outputs, atol=1e-5)
        assert answered.token_counts.tolist() == [[n] for n in expected.token_counts]


def test_a_batch_above_the_largest_is_refused(ask: Ask, manifest: Manifest):
    with pytest.raises(InferenceServerException, match="batch-size must be <= 64"):
        ask(questions(manifest.max_batch_size + 1))


def test_a_text_that_is_too_long_returns_its_whole_token_count(
    ask: Ask, version_directory: Path, manifest: Manifest
):
    tokenizer = Tokenizer.from_file(str(version_directory / "tokenizer.json"))
    tokenizer.no_truncation()
    text = "a question that does not come to its end, " * 200
    whole = len(tokenizer.encode(text))
    assert whole > 4 * manifest.max_tokens
    answered = ask([text, "a short one"])
    assert answered.token_counts[0] == whole
    assert answered.token_counts[1] < manifest.max_tokens
    np.testing.assert_allclose(np.linalg.norm(answered.outputs, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("text", ["", "ümläut, 漢字 and \U0001f680", "nul \0 inside", "  \n\t "])
def test_unusual_texts_are_answered_like_any_other(ask: Ask, encoder: TextEncoder, text: str):
    expected = encoder.encode([text])
    answered = ask([text])
    np.testing.assert_allclose(answered.outputs, expected.outputs, atol=1e-5)
    assert answered.token_counts.ravel().tolist() == expected.token_counts.tolist()


def test_a_text_that_is_not_utf_8_is_an_invalid_argument(ask: Ask):
    with pytest.raises(InferenceServerException, match="text is not UTF-8") as refused:
        ask(["good", NOT_UTF_8])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def merge(
    ask: Ask,
    statistics: Callable[[], dict[str, object]],
    batches: Sequence[Sequence[str | bytes]],
) -> list[Future[Encoded]]:
    """The answers to requests sent at once, repeated until Triton has run some of them together."""
    deadline_s = time.monotonic() + DEADLINE_S
    with ThreadPoolExecutor(len(batches)) as pool:
        while time.monotonic() < deadline_s:
            before = int(statistics()["execution_count"])
            futures = [pool.submit(ask, batch) for batch in batches]
            for future in futures:
                future.exception()  # waits
            if int(statistics()["execution_count"]) - before < len(batches):
                return futures
    pytest.fail("Triton ran every request alone")


def test_concurrent_requests_share_executions_and_each_gets_its_own_answer(
    ask: Ask, statistics: Callable[[], dict[str, object]], encoder: TextEncoder
):
    texts = questions(16)
    futures = merge(ask, statistics, [[text] for text in texts])
    answered = np.concatenate([future.result().outputs for future in futures])
    # INT8 scales its activations by the batch, so that a vector differs a little with its neighbours.
    similarity = answered @ encoder.encode(texts).outputs.T
    assert np.diag(similarity).min() > 0.95
    assert similarity.argmax(axis=1).tolist() == list(range(len(texts)))


def test_a_request_that_is_not_utf_8_fails_alone_among_those_it_shares_an_execution_with(
    ask: Ask, statistics: Callable[[], dict[str, object]], encoder: TextEncoder
):
    slow = questions(64)  # the others gather in the queue while this one runs
    _, bad, good = merge(ask, statistics, [slow, [NOT_UTF_8], ["a good text"]])
    with pytest.raises(InferenceServerException, match="text is not UTF-8"):
        bad.result()
    answered = good.result().outputs[0]
    assert answered @ encoder.encode(["a good text"]).outputs[0] > 0.95
