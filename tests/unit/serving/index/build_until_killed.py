"""Builds an index again and again, each time in a process that is killed at one point or at none.

    build_until_killed.py <folder> <stage>:<how often that was reached> ...

Each build goes to a folder named after its point, and is forked so as to be quick. Prints how each ended.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.index import build as build_module
from serving.index import faiss_index, sources, writer
from serving.index.build import BuildPlan, build
from serving.index.layout import Layout
from serving.index.sources import NpySource

# Small enough that a small build goes through many of both.
sources.CHUNK_ROWS = 50
build_module.CHUNKS_PER_CHECKPOINT = 3


def build_until(folder: Path, point: str) -> None:
    stage, times = point.split(":")
    reached = 0

    def reach(name: str) -> None:
        nonlocal reached
        reached += name == stage
        if name == stage and reached == int(times):
            os.kill(os.getpid(), signal.SIGKILL)

    def killed_before(module: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(module, name)

        def called(*arguments: Any, **named: Any) -> Any:
            reach(name)
            return real(*arguments, **named)

        setattr(module, name, called)

    killed_before(build_module, "write_sorted")
    killed_before(writer, "write_segment_record")
    killed_before(build_module, "write_generation")
    killed_before(faiss_index, "save")
    killed_before(Path, "unlink")
    layout = Layout.model_validate_json((folder / "layout.json").read_bytes())
    plan = BuildPlan(folder / point, "demo", "g1", "l2", layout, 3)
    source = NpySource(folder / "vectors.npy", folder / "ids.npy")
    build(plan, source, lambda stage, *_: reach(stage))


def main() -> None:
    folder, *points = sys.argv[1:]
    for point in points:
        process = os.fork()
        if not process:
            build_until(Path(folder), point)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
