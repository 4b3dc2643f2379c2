import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.errors import QueriesError, SettingsError
from loadtest.probe import Answer, Order, Target, encode, read_items

Handler = Callable[[service_pb2.ModelInferRequest], None]


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers as `fault` lets it, and keeps the texts that it was asked."""

    def __init__(self) -> None:
        self.texts: list[list[str]] = []
        self.fault: Handler = lambda _: None

    def ModelInfer(  # noqa: N802
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        self.texts.append([raw[4:].decode() for raw in request.raw_input_contents])
        try:
            self.fault(request)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return service_pb2.ModelInferResponse()


@pytest.fixture
def triton() -> Iterator[tuple[FakeTriton, str]]:
    """A server that speaks Triton's protocol, one request at a time, and its address."""
    servicer = FakeTriton()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


class Probe:
    """The probe's process; calling it sends an order and returns the answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def __call__(self, order: Order) -> Answer:
        self.process.stdin.write(order.model_dump_json() + "\n")
        self.process.stdin.flush()
        return Answer.model_validate_json(self.process.stdout.readline())


@contextlib.contextmanager
def probe(target: Target) -> Iterator[Probe]:
    """A probe of a target, which ends in good order."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.probe", target.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Probe(process)
        process.stdin.close()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_server_that_keeps_up_holds_and_one_process_answers_several_orders(
    triton: tuple[FakeTriton, str],
):
    servicer, address = triton
    with probe(Target(address=address, model="encoder")) as ask:
        answers = [
            ask(Order(rate_per_s=100, seconds=0.5, warmup_s=0.3, seed=seed, max_p99_ms=5_000))
            for seed in (1, 2)
        ]
    assert all(answer.holds and not answer.cut_short for answer in answers)
    assert all(answer.answered == answer.planned > 20 for answer in answers)
    assert answers[0].planned != answers[1].planned
    assert len(servicer.texts) > sum(answer.planned for answer in answers)  # the warm-up's too


def test_a_stall_is_seen_by_every_request_that_was_due_meanwhile(triton: tuple[FakeTriton, str]):
    servicer, address = triton
    released = threading.Event()
    servicer.fault = lambda _: None if released.wait(0.5) else released.set()
    with probe(Target(address=address, model="encoder")) as ask:
        answer = ask(Order(rate_per_s=200, seconds=1.0, warmup_s=0.0))
    # Half of the requests were due while the first was stuck: half of those waited a quarter second.
    assert answer.answered == answer.planned
    assert answer.p99_ms > 400
    assert answer.holds is None


def test_a_window_that_is_lost_ends_before_its_time(triton: tuple[FakeTriton, str]):
    servicer, address = triton
    stuck = threading.Event()
    servicer.fault = lambda _: stuck.wait(20) and None
    with probe(Target(address=address, model="encoder")) as ask:
        answer = ask(Order(rate_per_s=200, seconds=60, warmup_s=0.0, max_p99_ms=20))
    stuck.set()
    assert answer.cut_short
    assert answer.holds is False
    assert answer.errors == 0  # what was given up on here is no fault of the server's
    assert len(servicer.texts) < 2_000


def test_a_quick_refusal_is_an_error_and_does_not_hold(triton: tuple[FakeTriton, str]):
    servicer, address = triton

    def refuse(_: service_pb2.ModelInferRequest) -> None:
        raise ValueError("no such input")

    servicer.fault = refuse
    with probe(Target(address=address, model="encoder")) as ask:
        answer = ask(Order(rate_per_s=100, seconds=0.3, warmup_s=0.0, max_p99_ms=5_000))
    assert answer.holds is False
    assert answer.error_kinds == {"server_error": answer.planned}
    assert answer.p99_ms is None


def test_nobody_listening_is_a_connection_error():
    with probe(Target(address="127.0.0.1:1", model="encoder")) as ask:
        answer = ask(Order(rate_per_s=50, seconds=0.3, warmup_s=0.0, max_p99_ms=5_000))
    assert answer.holds is False
    assert answer.error_kinds == {"connection": answer.errors}
    assert answer.errors > 0


def test_a_stall_of_the_generator_is_blamed_on_the_generator(triton: tuple[FakeTriton, str]):
    servicer, address = triton
    with probe(Target(address=address, model="encoder")) as ask:
        stalled = threading.Event()

        def stall(_: service_pb2.ModelInferRequest) -> None:
            if not stalled.is_set():
                stalled.set()
                os.kill(ask.pid, signal.SIGSTOP)
                threading.Timer(0.5, os.kill, (ask.pid, signal.SIGCONT)).start()

        servicer.fault = stall
        answer = ask(Order(rate_per_s=100, seconds=1.0, warmup_s=0.0))
    assert answer.generator_saturated
    assert "late" in answer.reasons[0]
    assert answer.late_sends > 10


def test_no_request_due_shows_nothing(triton: tuple[FakeTriton, str]):
    _, address = triton
    with probe(Target(address=address, model="encoder")) as ask:
        answer = ask(Order(rate_per_s=0.001, seconds=0.1, warmup_s=0.0, max_p99_ms=50))
    assert answer.planned == 0
    assert answer.holds is False
    assert "no request was due" in answer.reasons[0]


def test_a_reranker_is_asked_pairs_from_the_file_in_their_order(
    triton: tuple[FakeTriton, str], tmp_path: Path
):
    servicer, address = triton
    pairs = [["who wrote it", "a book about ä"], ["and when", "in May"]]
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    target = Target(address=address, model="ranker", inputs=("query", "text"), items=items)
    with probe(target) as ask:
        ask(Order(rate_per_s=100, seconds=0.3, warmup_s=0.0))
    assert {tuple(texts) for texts in servicer.texts} == {tuple(pair) for pair in pairs}


def test_a_request_names_the_model_and_has_one_tensor_for_each_input():
    target = Target(address="", model="ranker", inputs=("query", "text"))
    request = service_pb2.ModelInferRequest.FromString(encode(target, ["who", "me"]))
    assert request.model_name == "ranker"
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("query", "BYTES", [1, 1]),
        ("text", "BYTES", [1, 1]),
    ]
    assert list(request.raw_input_contents) == [b"\x03\0\0\0who", b"\x02\0\0\0me"]


def test_without_a_file_each_input_gets_another_question():
    rows = read_items(Target(address="", model="ranker", inputs=("query", "text")))
    assert len(rows) > 1_000
    assert all(query != text for query, text in rows[:100])


@pytest.mark.parametrize("content", ["", "not json", '["one", "two", "three"]', '{"text": "a"}'])
def test_a_malformed_file_of_items_is_refused(tmp_path: Path, content: str):
    items = tmp_path / "items.jsonl"
    items.write_text(content)
    with pytest.raises(QueriesError, match=r"items\.jsonl"):
        read_items(Target(address="", model="m", inputs=("query", "text"), items=items))


def test_unknown_inputs_need_a_file():
    with pytest.raises(SettingsError, match="name a file"):
        read_items(Target(address="", model="m", inputs=("image",)))


@pytest.mark.parametrize(
    ("target", "order", "words"),
    [
        ("{}", "", "address"),
        ("nonsense", "", "JSON"),
        (
            '{"address": "127.0.0.1:1", "model": "m"}',
            '{"rate_per_s": 0, "seconds": 1}',
            "rate_per_s",
        ),
        ('{"address": "127.0.0.1:1", "model": "m", "items": "/none"}', "", "/none"),
    ],
)
def test_a_wrong_order_ends_it_with_the_reason(target: str, order: str, words: str):
    command = [sys.executable, "-m", "loadtest.probe", target]
    done = subprocess.run(command, input=order + "\n", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
