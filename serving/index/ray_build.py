"""Finishes the shards of a build on a Ray cluster: one task per shard, with the memory that it takes.

The machines share the file system on which the generation grows, at the same path. Ray chooses where a task
runs, and runs it again elsewhere when its machine dies; what is finished is not done twice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.files import sha256_file
from serving.errors import ClusterError, DoesNotFitError, IndexBuildError
from serving.index import faiss_index
from serving.index.build import SPOOL_IDS, Announce, FinishAll, FinishOrder, finish
from serving.index.footprint import footprint
from serving.index.generation import SEGMENT_NAME, TRAINED_NAME, Generation, shard_directory
from serving.index.layout import FLOAT_BYTES, ID_BYTES
from serving.index.ray_cluster import connected, first_line, machines, over, ray
from serving.index.writer import CHUNK_ROWS

RETRIES = 3  # of a task whose machine or process died; what it refuses in words is not tried again
LOOK_S = 5.0  # until it is looked again whether what waits still fits a machine
GOES_ON = "build again, it goes on from there"


def finish_on_cluster(address: str, announce: Announce) -> FinishAll:
    """Carries out orders on the Ray cluster at `address` (host:port, or auto).

    Raises ClusterError now when there is none, before hours go into spooling.
    """
    with connected(address):
        pass

    def finish_all(orders: Sequence[FinishOrder]) -> None:
        with connected(address):
            offered = machines()
            check_fits([finish_bytes(order) for order in orders])
            threads = threads_per_task([machine.cpus for machine in offered], len(orders))
            tasks = {start(order, threads): order for order in orders}
            wait_for(tasks, announce)
        for order in orders:
            check_arrived(order)

    return finish_all


def threads_per_task(cpus: Sequence[float], tasks: int) -> int:
    """The most threads with which all tasks still run at once on machines with these CPUs; at least one."""
    most = int(max(cpus, default=1))
    roomy = (
        threads
        for threads in range(most, 1, -1)
        if sum(int(offered) // threads for offered in cpus) >= tasks
    )
    return next(roomy, 1)


def finish_bytes(order: FinishOrder) -> int:
    """The most memory that finishing a shard takes: its index, its ids three times, rows in passing."""
    spooled = shard_directory(order.workplace, order.shard) / SPOOL_IDS
    rows = spooled.stat().st_size // ID_BYTES if spooled.is_file() else 0
    generation = order.generation
    in_memory = generation.layout.model_copy(update={"on_disk": False})
    passing = 4 * CHUNK_ROWS * generation.dim * FLOAT_BYTES
    return footprint(in_memory, generation.dim, rows).total_bytes + 3 * ID_BYTES * rows + passing


def check_fits(needs_bytes: Sequence[int]) -> None:
    """Raise DoesNotFitError when a shard cannot be finished on any machine that is there."""
    too_much = over("to finish a shard takes", max(needs_bytes, default=0), machines())
    if too_much:
        raise DoesNotFitError(
            f"{too_much}; build with more --shards, or start Ray with more --memory"
        )


def start(order: FinishOrder, threads: int) -> Any:
    """Have Ray carry out an order somewhere; what stands for its result."""
    options = {
        "num_cpus": threads,
        "memory": finish_bytes(order),
        "max_retries": RETRIES,
        "name": f"finish shard {order.shard}",
    }
    described = order.generation.model_dump_json()
    remote = ray.remote(finish_there).options(**options)
    return remote.remote(str(order.workplace.resolve()), described, order.shard, threads)


def finish_there(workplace: str, generation: str, shard: int, threads: int) -> None:
    """Finish a shard, on the machine that Ray chose. Raises IndexBuildError."""
    order = FinishOrder(Path(workplace), Generation.model_validate_json(generation), shard)
    check_seen(order, ray.util.get_node_ip_address())
    faiss_index.set_threads(threads)
    finish(order)


def check_seen(order: FinishOrder, machine: str) -> None:
    """Raise IndexBuildError unless this machine sees the files of the one that builds."""
    trained = order.workplace / TRAINED_NAME
    if not trained.is_file() or sha256_file(trained) != order.generation.trained_sha256:
        raise IndexBuildError(
            f"machine {machine} does not see {trained} as it was written: mount the file system of the "
            f"index at the same path on every machine of the cluster, and {GOES_ON}"
        )


def wait_for(tasks: dict[Any, FinishOrder], announce: Announce) -> None:
    """Wait for all tasks. Raises IndexBuildError with the words of the first that failed."""
    waiting, total = list(tasks), len(tasks)
    announce("finish", 0, total)
    while waiting:
        done, waiting = ray.wait(waiting, timeout=LOOK_S)
        for one in done:
            get(one, tasks[one].shard)
        announce("finish", total - len(waiting), total)
        if waiting and not done:
            check_fits([finish_bytes(tasks[one]) for one in waiting])


def get(task: Any, shard: int) -> None:
    """Take note that a task is done. Raises IndexBuildError with what kept it from that."""
    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, IndexBuildError):
            raise IndexBuildError(str(error.cause)) from error
        raise IndexBuildError(
            f"shard {shard} could not be finished ({error.cause!r}): remove the cause and {GOES_ON}"
        ) from error
    except ray.exceptions.RayError as error:
        raise IndexBuildError(
            f"shard {shard} could not be finished, {RETRIES} times its process or machine died "
            f"({first_line(error)}): see `ray logs`, then {GOES_ON}"
        ) from error


def check_arrived(order: FinishOrder) -> None:
    """Raise ClusterError unless what was made elsewhere is here."""
    directory = shard_directory(order.workplace, order.shard)
    if not (directory / SEGMENT_NAME).is_file():
        raise ClusterError(
            f"shard {order.shard} was finished on another machine and is not at {directory}: mount one "
            f"file system at that path on every machine, not a copy of it, and {GOES_ON}"
        )
