"""`python -m serving.index switch`: the next generation on the node of this machine."""

import argparse
import asyncio

from serving.errors import SwitchError
from serving.index.generation import read_generation
from serving.index.gpu_options import settings_from
from serving.index.local import NODE_NAME
from serving.index.node import (
    NodeOrder,
    check_node_fits,
    forget_generation,
    mounts_of,
    needs_of,
)
from serving.index.placement import PLACEMENT_NAME, place, read_placement
from serving.index.quantities import bytes_of
from serving.index.repository import write_model
from serving.index.switch import Announce, switch


def switch_local(options: argparse.Namespace, announce: Announce) -> None:
    """Switch an index whose shards all run on one node of this machine. Raises ServingError.

    Both generations are in memory for a while: refused before anything is loaded when they do not fit.
    """
    current = read_placement(options.index / PLACEMENT_NAME)
    urls = {url for replicas in current.replicas for url in replicas}
    if len(urls) != 1:
        raise SwitchError(
            f"{options.index} runs on {len(urls)} nodes: start nodes of the new generation beside them "
            "and replace its placement.json by theirs (`python -m serving.index place` writes one)"
        )
    directory = options.index / "generations" / options.generation
    generation = read_generation(directory)
    order = NodeOrder(
        generation=directory,
        shards=tuple(range(generation.shards)),
        directory=options.index / NODE_NAME,
        memory_bytes=bytes_of(options.memory),
        gpu=settings_from(options),
    )
    old = directory.with_name(current.generation)
    needs = needs_of(old, read_generation(old), range(len(current.replicas)))
    needs += needs_of(directory, generation, order.shards)
    check_node_fits(needs, order.memory_bytes, f"{options.index} with both generations")
    for mount in mounts_of(order):
        write_model(order.directory / "models", mount)
    following = place(generation, [[*urls]] * generation.shards)
    try:
        asyncio.run(
            switch(
                options.index,
                following,
                generation,
                announce,
                lose_writes=options.lose_writes,
                drain_s=options.drain_s,
            )
        )
    except BaseException:
        if read_placement(options.index / PLACEMENT_NAME).generation != generation.name:
            forget_generation(order.directory, generation.name)
        raise
    forget_generation(order.directory, current.generation)
