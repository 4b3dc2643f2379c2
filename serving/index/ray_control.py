"""Says in placement.json where the nodes are that Ray keeps, at each change: decisions, and the loop."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from serving.errors import PlacementError, ServingError, SwitchError
from serving.index.generation import Generation
from serving.index.placement import Placement, place, read_placement, write_placement
from serving.index.ray_node import NodeReport
from serving.index.ray_plan import Slot
from serving.index.ray_watch import Watch
from serving.index.switch import DRAIN_S, FREEZE_S, freeze, refuse_lost_writes, sequences

log = logging.getLogger(__name__)

Reports = Mapping[Slot, NodeReport | None]
Step = Literal["keep", "write", "take over", "leave"]
Say = Callable[[str], None]


def placement_of(generation: Generation, reports: Reports) -> Placement:
    """Where each shard answers. A shard of which a replica is away takes no writes: it would miss them."""
    replicas: list[list[str]] = [[] for _ in range(generation.shards)]
    closed: set[int] = set()
    for slot in sorted(reports, key=lambda slot: slot.replica):
        found = reports[slot]
        for shard in slot.shards:
            if found is not None and found.address:
                replicas[shard].append(found.address)
            else:
                closed.add(shard)
    return place(generation, replicas, tuple(sorted(closed)))


def next_step(current: Placement | None, mine: Placement, published: bool) -> Step:
    """What to do about placement.json, in which `current` stands.

    Another generation is replaced when every shard of this one answers, and not before. One that appears
    after this one was published has taken over from it.
    """
    if current is not None and current.generation == mine.generation:
        return "keep" if current == mine else "write"
    if published:
        return "write" if current is None else "leave"
    if not all(mine.replicas):
        return "keep"
    return "write" if current is None else "take over"


def describe(mine: Placement, reports: Reports) -> str:
    """How the index is, in words: a line, and one for each node that is away."""
    there = sum(map(bool, mine.replicas))
    nodes = sum(found is not None and bool(found.address) for found in reports.values())
    lines = [
        f"{mine.index} {mine.generation}: {there} of {len(mine.replicas)} shards answer, on {nodes} of "
        f"{len(reports)} nodes"
    ]
    for slot, found in reports.items():
        if found is None:
            lines.append(f"  {slot.words}: Ray finds a machine for it and starts it")
        elif not found.address:
            why = found.reason or "Triton reads its shards"
            lines.append(f"  {slot.words} on {found.machine}: {why}")
    return "\n".join(lines)


def control(
    path: Path, generation: Generation, watch: Watch, say: Say, *, lose_writes: bool = False
) -> None:
    """Keep placement.json true until another generation takes over; then return when it may be unloaded.

    Raises SwitchError when writes to the generation that is served would be lost, and what Watch raises.
    """
    published, said = False, ""
    while True:
        reports = watch.poll()
        mine = placement_of(generation, reports)
        words = describe(mine, reports)
        if words != said:
            say(words)
            said = words
        current = current_placement(path)
        step = next_step(current, mine, published)
        if step == "leave":
            say(f"another generation is served now; {generation.name} ends in {DRAIN_S:g} s")
            time.sleep(DRAIN_S)
            return
        if step == "keep":
            published = published or current == mine
        elif step == "take over" and current is not None:
            asyncio.run(take_over(path, current, mine, generation, lose_writes))
            published = True
        else:
            published = write(path, mine) or published


def current_placement(path: Path) -> Placement | None:
    """What stands in the file; None when nothing does that can be read."""
    try:
        return read_placement(path)
    except PlacementError:
        return None


def write(path: Path, placement: Placement) -> bool:
    """Whether the file could be replaced: if not, it is tried again."""
    try:
        write_placement(path, placement)
    except OSError as error:
        log.warning("%s cannot be written (%s); trying again", path, error.strerror)
        return False
    return True


async def take_over(
    path: Path, current: Placement, mine: Placement, generation: Generation, lose_writes: bool
) -> None:
    """Serve this generation in place of the one that is served, as `switch` does.

    Raises SwitchError, with the other one served as before.
    """
    try:
        if not lose_writes:
            await freeze(current, FREEZE_S)
            refuse_lost_writes(current, generation, await sequences(current))
        write_placement(path, mine)
    except SwitchError:
        await thaw(current)
        raise
    except (ServingError, OSError) as error:
        await thaw(current)
        raise SwitchError(
            f"{generation.name} cannot take over from {current.generation} ({error}): start the nodes of "
            f"{current.generation} again, or give up what was written to them with --lose-writes"
        ) from error


async def thaw(placement: Placement) -> None:
    """Have the nodes that answer take writes again."""
    with suppress(ServingError):
        await freeze(placement, 0)
