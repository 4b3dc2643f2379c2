"""A client process that works on orders: "now 32 texts at a time for four seconds"."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

from loadtest.bench.worker import worker
from models.manifest import Record


class Target(Record):
    """What is asked: a Triton or a gateway at host:port, or an encoder in its own directory."""

    kind: Literal["triton", "gateway", "direct"]
    model: str
    where: str


class Order(Record):
    """One window: after `warmup_s` measure for `seconds`, with `concurrency` texts under way."""

    concurrency: int
    warmup_s: float
    seconds: float


class Window(Record):
    """What a window showed. `cpu_share` is what the client's process took, 1.0 for a whole core."""

    texts: int
    texts_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_share: float


Client = Callable[[Order], Window]


@contextlib.contextmanager
def client(target: Target) -> Iterator[Client]:
    """A client of one target, in a process of its own; calling it works on one order.

    A call raises GeneratorError, with the client's words, when a request failed or it ended early.
    """
    who = f"the client of {target.kind} at {target.where}"
    with worker("loadtest.bench.closed_loop", target, who) as ask:
        yield lambda order: Window.model_validate_json(ask(order))
