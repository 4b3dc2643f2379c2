"""`python -m serving.index ray-serve`: an index on the machines of a Ray cluster."""

import argparse
from pathlib import Path

from serving.errors import ServingError, SettingsError
from serving.index.generation import Generation, read_generation
from serving.index.gpu_options import settings_from
from serving.index.local import generation_to_serve
from serving.index.node import needs_of
from serving.index.placement import PLACEMENT_NAME, place
from serving.index.quantities import bytes_of
from serving.index.ray_cluster import connected, machines
from serving.index.ray_control import Say, control, current_placement, write
from serving.index.ray_fleet import (
    FleetPlan,
    is_placed,
    namespace,
    place_fleet,
    retire_others,
    stop_fleet,
)
from serving.index.ray_plan import Ask, check_fits, slots_of
from serving.index.ray_watch import Watch
from serving.index.replica_states import prepare_states


def serve_on_cluster(options: argparse.Namespace, say: Say) -> None:
    """Place the nodes of an index and say where they are, until stopped or another generation is served.

    Killed, it leaves the nodes with Ray, where the next call finds them. Raises ServingError.
    """
    index = options.index.resolve()
    directory = index / "generations" / (options.generation or generation_to_serve(index))
    generation = read_generation(directory)
    ask = Ask(
        memory_bytes=bytes_of(options.memory_per_node),
        cpus=options.cpus_per_node,
        gpus=options.gpus_per_node,
    )
    gpu = settings_from(options)
    if gpu.devices != "none" and not ask.gpus:
        raise SettingsError(f"--gpu {options.gpu} needs GPUs from Ray: say --gpus-per-node as well")
    needs = needs_of(directory, generation, range(generation.shards))
    needs_bytes = [need.total_bytes for need in needs]
    with connected(options.address, namespace(index)):
        slots = slots_of(needs_bytes, options.replicas, ask.memory_bytes)
        plan = FleetPlan(index, directory, generation, tuple(slots), ask, options.threads, gpu)
        if not is_placed(plan):
            check_fits(needs_bytes, options.replicas, ask, machines())
            retire_others(plan)
            prepare_states(index, generation, options.replicas)
        run(plan, say, lose_writes=options.lose_writes)


def run(plan: FleetPlan, say: Say, *, lose_writes: bool) -> None:
    """Place a fleet, look after it, and end it when that is asked for or it is of no more use."""
    path = plan.index / PLACEMENT_NAME
    try:
        watch = Watch(place_fleet(plan))
        control(path, plan.generation, watch, say, lose_writes=lose_writes)
    except (KeyboardInterrupt, ServingError):
        close(path, plan.generation)
        stop_fleet(plan)
        raise
    stop_fleet(plan)


def close(path: Path, generation: Generation) -> None:
    """Say that no shard runs, where this generation is the one that was served."""
    current = current_placement(path)
    if current is not None and current.generation == generation.name:
        write(path, place(generation, [[] for _ in range(generation.shards)]))
