"""What is asked of a shard, without one: tests/triton asks a real one."""

import asyncio
import time

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from serving.index.client import ShardClient, infer_request, packed, read_response
from serving.index.metric import Ids
from serving.index.operations import FILTER, IDS, SCORES, VECTORS, read_filter


class SentError(Exception):
    """Ends a call when its request is known."""


class Stub:
    """Keeps the request."""

    request: service_pb2.ModelInferRequest

    async def ModelInfer(self, request: service_pb2.ModelInferRequest, timeout: float) -> None:  # noqa: N802
        assert timeout > 0
        self.request = request
        raise SentError


@pytest.mark.parametrize(("among", "sent"), [([4, 7], [4, 7]), ([], [-1])])
def test_a_filter_of_no_ids_is_not_sent_as_no_filter(among: list[int], sent: list[int]) -> None:
    stub = Stub()
    client = ShardClient(stub, "host:1", "demo-g1-0000")
    ids: Ids = np.array(among, dtype=np.int64)
    queries = np.ones((2, 3), np.float32)
    with pytest.raises(SentError):
        asyncio.run(client.search(queries, 5, 0, ids, time.monotonic() + 60))
    names = [tensor.name for tensor in stub.request.inputs]
    content = stub.request.raw_input_contents[names.index(FILTER)]
    one = content[4 : 4 + len(content) // 2 - 4]
    assert content == packed([one, one])
    found = read_filter(one)
    assert found is not None
    assert found.tolist() == sent


def test_tensors_are_sent_with_their_shapes_and_types() -> None:
    vectors, ids = np.ones((2, 3), np.float64), np.array([[1], [2]], np.int32)
    request = infer_request("m", "upsert", {IDS: ids, VECTORS: vectors}, {"version_ns": 2**62})
    described = {t.name: (t.datatype, [*t.shape]) for t in request.inputs}
    assert described == {IDS: ("INT64", [2, 1]), VECTORS: ("FP32", [2, 3])}
    assert [len(content) for content in request.raw_input_contents] == [16, 24]
    assert request.parameters["version_ns"].int64_param == 2**62
    assert [output.name for output in request.outputs] == ["sequence"]


def test_a_response_is_read_by_names_whatever_their_order() -> None:
    response = service_pb2.ModelInferResponse()
    ids, scores = np.array([[3, -1]], "<i8"), np.array([[0.5, np.inf]], "<f4")
    for name, value in ((SCORES, scores), (IDS, ids)):
        response.outputs.add(name=name, shape=value.shape)
        response.raw_output_contents.append(value.tobytes())
    answer = read_response(response)
    assert answer[IDS].tolist() == [[3, -1]]
    assert answer[SCORES].tolist() == [[0.5, np.inf]]
