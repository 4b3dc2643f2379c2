"""A load generator in a process of its own that works on orders: a JSON line in, a JSON line out."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from loadtest.errors import GeneratorError
from models.manifest import Record


@contextlib.contextmanager
def worker(module: str, target: Record, who: str) -> Iterator[Callable[[Record], str]]:
    """Start `module` on `target`; calling what is yielded sends one order and returns the answer's line.

    A call raises GeneratorError, with the process's last words, when it ended early; `who` names it.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, target.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal reaches it only through us
        )
        try:
            yield lambda order: work_on(process, order, who, log)
        finally:
            process.kill()  # it holds nothing that would need an orderly end
            process.communicate()


def work_on(process: subprocess.Popen[str], order: Record, who: str, log: IO[str]) -> str:
    """Send one order and read the line of its answer."""
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
            f"{who} ended early ({last_words}): see what stopped there, and try again"
        )
    return answer
