"""An open-loop load generator for one model on Triton, in a process that works on orders.

    python -m loadtest.probe '{"address": "127.0.0.1:8001", "model": "search-encoder"}'

reads an Order per line from stdin and answers each with an Answer on stdout, both JSON. Latency counts from
the planned send time of Poisson arrivals. A window ends as soon as its verdict is certain: once more
requests are late than the asked p99 allows, or as many wait as a server may be asked to hold.
"""

import argparse
import asyncio
import json
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import grpc
from pydantic import Field, PositiveFloat, ValidationError
from tritonclient.grpc import service_pb2

from loadtest.arrivals import poisson
from loadtest.errors import LoadtestError, QueriesError, SettingsError
from loadtest.queries import load_queries
from loadtest.results import CONNECTION, OK, SERVER_ERROR, TIMEOUT, Recorder, Sample, summarise
from models.manifest import QUERY_INPUT, TEXT_INPUT, Record

INFER = "/inference.GRPCInferenceService/ModelInfer"
DRAIN_S = 5.0  # how long answers are waited for after the last request was due
MAX_WAITING = 4096  # more requests under way than this are a server that does not keep up
QUANTILE = 0.99


class Target(Record):
    """Where a packaged model is served: gRPC at `address` (host:port). Rerankers have two `inputs`.

    `items` is a file of JSON lines, each a list with a text for every input; without it, the questions that
    come with Farshore are sent.
    """

    address: str
    model: str
    inputs: tuple[str, ...] = (TEXT_INPUT,)
    items: Path | None = None


class Order(Record):
    """One window at a rate. With `max_p99_ms` it may end early, when that cannot hold any more."""

    rate_per_s: PositiveFloat
    seconds: PositiveFloat
    warmup_s: float = Field(0.5, ge=0)
    seed: int = 0
    max_p99_ms: PositiveFloat | None = None


class Answer(Record):
    """What a window showed. Rates are of single items per second, latencies in ms from planned send times.

    `cut_short`: the verdict "p99 is above the limit" was certain before the window was over; its figures
    cover what was sent until then. `late_sends` left over 5 ms after they were due. When
    `generator_saturated`, the `reasons` say why the figures may be the generator's own.
    """

    rate_per_s: float
    achieved_rate_per_s: float
    planned: int
    answered: int
    errors: int
    error_kinds: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    holds: bool | None  # p99 within the limit and no error; None without a limit
    cut_short: bool
    late_sends: int
    generator_cpu_share: float
    generator_saturated: bool
    reasons: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer orders until stdin ends; exit status 1, with the reason on stderr, when one cannot be."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.probe", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", help="JSON: address, model, and where needed inputs and items")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(work(Target.model_validate_json(options.target)))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "JSON"
        print(f"error: {where}: {problem['msg']}: see `--help`", file=sys.stderr)
        return 1
    except LoadtestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def work(target: Target) -> None:
    """Answer the orders on stdin, a pipe, over one channel."""
    requests = cycle([encode(target, items) for items in read_items(target)])
    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    async with grpc.aio.insecure_channel(target.address) as channel:
        async for line in lines:
            order = Order.model_validate_json(line)
            answer = await Window(channel, requests, order).run()
            print(answer.model_dump_json(), flush=True)


def read_items(target: Target) -> list[tuple[str, ...]]:
    """What is sent, one text for each input. Raises QueriesError or SettingsError."""
    if target.items is None:
        if target.inputs not in ((TEXT_INPUT,), (QUERY_INPUT, TEXT_INPUT)):
            raise SettingsError(f"inputs {target.inputs}: name a file of items for them")
        texts = load_queries()
        return list(zip(*[texts[i:] for i in range(len(target.inputs))], strict=False))
    try:
        rows = [json.loads(line) for line in target.items.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise QueriesError(f"{target.items} is not a file of JSON lines ({error})") from error
    whole = [
        isinstance(row, list) and [type(text) for text in row] == [str] * len(target.inputs)
        for row in rows
    ]
    if not rows or not all(whole):
        raise QueriesError(
            f"{target.items} must hold lines, each a JSON list of {len(target.inputs)} text(s)"
        )
    return [tuple(row) for row in rows]


def encode(target: Target, texts: Sequence[str]) -> bytes:
    """One item as a KServe v2 request: BYTES are a little-endian length, then the content."""
    request = service_pb2.ModelInferRequest(model_name=target.model)
    for name, text in zip(target.inputs, texts, strict=True):
        content = text.encode()
        request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
        request.raw_input_contents.append(struct.pack("<I", len(content)) + content)
    return bytes(request.SerializeToString())


class Window:
    """One order being carried out: every request is a task that ends as a Sample."""

    def __init__(self, channel: grpc.aio.Channel, requests: Iterator[bytes], order: Order) -> None:
        self.infer = channel.unary_unary(INFER)
        self.requests = requests
        self.order = order
        self.recorder = Recorder()
        self.pending: dict[float, asyncio.Task[None]] = {}  # by planned time, in sending order
        self.late_answers = 0
        self.late_sends = 0
        self.hopeless = False

    async def run(self) -> Answer:
        """Send everything when it is due, wait for the answers and sum up."""
        order = self.order
        due = poisson(order.rate_per_s, order.warmup_s + order.seconds, order.seed)
        due_s = [float(planned_s) for planned_s in due - order.warmup_s]
        measured = [planned_s for planned_s in due_s if planned_s >= 0]
        allowed_late = int(len(measured) * (1 - QUANTILE) + 1e-9)
        self.origin_s = time.perf_counter() + order.warmup_s
        cpu_started_s = time.process_time()
        started_s = time.perf_counter()
        await self.send(due_s, allowed_late)
        cpu_share = (time.process_time() - cpu_started_s) / (time.perf_counter() - started_s)
        await self.drain()
        return self.sum_up(len(measured), allowed_late, cpu_share)

    async def send(self, due_s: Sequence[float], allowed_late: int) -> None:
        """Send each request when it is due, however the others do; stop when all is lost."""
        for planned_s in due_s:
            wait_s = planned_s - self.now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif len(self.pending) % 16 == 15:
                await asyncio.sleep(0)  # behind: let answers be read all the same
            if self.is_hopeless(allowed_late):
                self.hopeless = True
                return
            self.pending[planned_s] = asyncio.create_task(self.ask(planned_s, next(self.requests)))

    def is_hopeless(self, allowed_late: int) -> bool:
        """Whether p99 is above the limit already, whatever is answered from now on."""
        if len(self.pending) > MAX_WAITING:
            return True
        limit_ms = self.order.max_p99_ms
        if limit_ms is None:
            return False
        late = self.late_answers
        overdue_s = self.now_s() - limit_ms / 1e3
        for planned_s in self.pending:
            if planned_s > overdue_s or late > allowed_late:
                break
            late += planned_s >= 0
        return late > allowed_late

    async def ask(self, planned_s: float, request: bytes) -> None:
        """Send one request and record how it ended."""
        sent_s, outcome = self.now_s(), OK
        try:
            await self.infer(request)
        except grpc.aio.AioRpcError as error:
            lost = error.code() == grpc.StatusCode.UNAVAILABLE
            outcome = CONNECTION if lost else SERVER_ERROR
        except asyncio.CancelledError:
            outcome = TIMEOUT
        done_s = self.now_s()
        del self.pending[planned_s]
        limit_ms = self.order.max_p99_ms
        if planned_s >= 0:
            self.late_sends += sent_s - planned_s > 5e-3
            if limit_ms is not None and (done_s - planned_s) * 1e3 > limit_ms:
                self.late_answers += 1
        self.recorder.record(Sample(planned_s, sent_s, done_s, outcome))

    async def drain(self) -> None:
        """Wait for the answers that are out; give up those that take too long, or at once if hopeless."""
        waiting = list(self.pending.values())
        if waiting and not self.hopeless:
            await asyncio.wait(waiting, timeout=DRAIN_S)
        for task in list(self.pending.values()):
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)  # some may not have begun

    def now_s(self) -> float:
        """Seconds since the window began; negative while it warms up."""
        return time.perf_counter() - self.origin_s

    def sum_up(self, planned: int, allowed_late: int, cpu_share: float) -> Answer:
        """The window in figures."""
        if not self.recorder.planned_s:
            return nothing_sent(self.order, self.hopeless, cpu_share)
        sent = len(self.recorder.planned_s)
        until_s = max(self.recorder.planned_s) if self.hopeless else self.order.seconds
        result = summarise(
            self.recorder,
            planned=sent if self.hopeless else planned,
            duration_s=max(until_s, 1e-3),
            cpu_share=cpu_share,
            interrupted=self.hopeless,
        )
        given_up = {TIMEOUT} if self.hopeless else set()  # cancelled here, no fault of the server's
        errors = {kind: n for kind, n in result.errors.items() if n and kind not in given_up}
        limited = self.order.max_p99_ms is not None
        holds = not self.hopeless and self.late_answers <= allowed_late and not errors
        return Answer(
            rate_per_s=self.order.rate_per_s,
            achieved_rate_per_s=result.goodput_per_s,
            planned=planned,
            answered=result.answered,
            errors=sum(errors.values()),
            error_kinds=errors,
            p50_ms=result.latency.p50_ms if result.latency else None,
            p99_ms=result.latency.p99_ms if result.latency else None,
            holds=holds if limited else None,
            cut_short=self.hopeless,
            late_sends=self.late_sends,
            generator_cpu_share=cpu_share,
            generator_saturated=result.generator_saturated,
            reasons=result.saturation_reasons,
        )


def nothing_sent(order: Order, hopeless: bool, cpu_share: float) -> Answer:
    """The answer of a window in which no request was due: it shows nothing."""
    return Answer(
        rate_per_s=order.rate_per_s,
        achieved_rate_per_s=0.0,
        planned=0,
        answered=0,
        errors=0,
        error_kinds={},
        p50_ms=None,
        p99_ms=None,
        holds=None if order.max_p99_ms is None else False,
        cut_short=hopeless,
        late_sends=0,
        generator_cpu_share=cpu_share,
        generator_saturated=False,
        reasons=["no request was due: measure for longer, or at a higher rate"],
    )


if __name__ == "__main__":
    sys.exit(main())
