import math
import struct

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from models.manifest import Manifest
from serving.errors import DeadlineExceededError, ModelFailedError, ModelUnavailableError
from serving.gateway.model_client import (
    Embedded,
    failure,
    infer_request,
    join,
    read_response,
    split,
)


def response(
    embeddings: np.ndarray, token_counts: np.ndarray, names: tuple[str, str]
) -> service_pb2.ModelInferResponse:
    made = service_pb2.ModelInferResponse(
        raw_output_contents=[embeddings.tobytes(), token_counts.tobytes()]
    )
    for name in names:
        made.outputs.add(name=name)
    return made


@given(st.lists(st.text(), max_size=50), st.integers(1, 9))
def test_parts_hold_every_text_in_order_and_none_is_over_the_size(texts: list[str], size: int):
    parts = list(split(texts, size))
    assert [text for part in parts for text in part] == texts
    assert all(1 <= len(part) <= size for part in parts)


@given(st.lists(st.text(), min_size=1, max_size=20))
def test_triton_s_own_reader_finds_the_texts_of_a_request(
    plain_manifest: Manifest, texts: list[str]
):
    request = infer_request(plain_manifest, texts, timeout_s=1.5)
    raw = deserialize_bytes_tensor(request.raw_input_contents[0])
    assert [item.decode() for item in raw] == texts
    assert list(request.inputs[0].shape) == [len(texts), 1]


def test_a_request_names_the_packaged_version_and_its_timeout_in_microseconds(
    plain_manifest: Manifest,
):
    manifest = plain_manifest.model_copy(update={"name": "search", "version": 3})
    request = infer_request(manifest, ["a"], timeout_s=1.5)
    assert (request.model_name, request.model_version) == ("search", "3")
    assert request.parameters["timeout"].int64_param == 1_500_000
    assert request.raw_input_contents[0] == struct.pack("<I", 1) + b"a"


def test_outputs_are_found_by_name_in_any_order():
    embeddings = np.array([[1, 2], [3, 4]], np.float32)
    counts = np.array([[5], [6]], np.int32)
    in_order = response(embeddings, counts, ("embedding", "token_count"))
    swapped = service_pb2.ModelInferResponse(
        outputs=reversed(in_order.outputs),
        raw_output_contents=reversed(in_order.raw_output_contents),
    )
    for made in (in_order, swapped):
        read = read_response(made, count=2, dim=2)
        assert read.embeddings.tolist() == [[1, 2], [3, 4]]
        assert read.token_counts.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("embeddings", "names"),
    [
        ([[1, 2, 3]], ("embedding", "token_count")),
        ([[1, math.nan]], ("embedding", "token_count")),
        ([[1, math.inf]], ("embedding", "token_count")),
        ([[1, 2]], ("vector", "token_count")),
    ],
)
def test_what_is_no_embedding_is_a_failure_of_the_model(
    embeddings: list[list[float]], names: tuple[str, str]
):
    made = response(np.array(embeddings, np.float32), np.array([[5]], np.int32), names)
    with pytest.raises(ModelFailedError):
        read_response(made, count=1, dim=2)


@pytest.mark.parametrize(
    ("code", "details", "error"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceededError),
        (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", DeadlineExceededError),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect", ModelUnavailableError),
        (grpc.StatusCode.NOT_FOUND, "unknown model", ModelUnavailableError),
        (grpc.StatusCode.INTERNAL, "a stack trace", ModelFailedError),
        (grpc.StatusCode.INVALID_ARGUMENT, "text is not UTF-8", ModelFailedError),
    ],
)
def test_a_status_of_triton_is_an_error_of_ours_without_triton_s_words(
    code: grpc.StatusCode, details: str, error: type[Exception]
):
    failed = failure(code, details, unavailable="see the log")
    assert type(failed) is error
    assert details not in str(failed)


def test_joined_parts_keep_their_order():
    parts = [
        Embedded(np.full((2, 2), index, np.float32), np.full(2, index, np.int32))
        for index in range(3)
    ]
    joined = join(parts)
    assert joined.token_counts.tolist() == [0, 0, 1, 1, 2, 2]
    assert joined.embeddings[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert joined.total_tokens == 6
