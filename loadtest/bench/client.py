"""A client process that works on orders: "now 32 texts at a time for four seconds"."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Literal

from loadtest.errors import GeneratorError
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
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.bench.closed_loop", target.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal reaches it only through us
        )
        try:
            yield lambda order: _work_on(process, order, target, log)
        finally:
            process.kill()  # it holds nothing that would need an orderly end
            process.communicate()


def _work_on(process: subprocess.Popen[str], order: Order, target: Target, log: IO[str]) -> Window:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
        process.stdin.write(order.model_dump_json() + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        log.seek(0)
        last_words = "".join(log.readlines()[-1:]).strip()
        raise GeneratorError(
            f"the client of {target.kind} at {target.where} ended early ({last_words}): see what "
            "stopped there, and try again"
        )
    return Window.model_validate_json(answer)
