"""`python -m serving.index place`: placement.json for nodes that Kubernetes or a person starts."""

import argparse
import re
from collections.abc import Sequence

from serving.errors import PlacementError, SettingsError
from serving.index.generation import read_generation
from serving.index.placement import Placement, place, write_placement
from serving.index.quantities import shards_of

ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d+)")
LABEL = re.compile(
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
)  # RFC 1123, as Kubernetes names services and pods


def write_static_placement(options: argparse.Namespace) -> Placement:
    """Write where the shards run, as the options say. Raises PlacementError or SettingsError."""
    generation = read_generation(options.generation)
    named = [split(words, "host:port,host:port") for words in options.at or ()]
    addresses = [(shards_of(shards), urls.split(",")) for shards, urls in named]
    for words in options.stateful_set or ():
        shards, name = split(words, "a StatefulSet's name")
        places = {"service": options.service, "namespace": options.namespace, "port": options.port}
        addresses.append((shards_of(shards), pods(name, options.replicas, **places)))
    replicas = spread(addresses, generation.shards)
    placement = place(generation, replicas)
    write_placement(options.output, placement)
    return placement


def split(words: str, what: str) -> tuple[str, str]:
    """SHARDS=VALUE in its two parts. Raises SettingsError."""
    shards, equals, value = words.partition("=")
    if not equals or not value:
        raise SettingsError(f"{words!r} cannot be read: write shards and {what}, as in 0-3={what}")
    return shards, value


def pods(name: str, replicas: int, *, service: str, namespace: str, port: int) -> list[str]:
    """The stable addresses of a StatefulSet's pods behind its headless service. Raises SettingsError.

    Kubernetes: "Stable Network ID" of StatefulSets, <pod>.<service>.<namespace>.svc.
    """
    if replicas < 1:
        raise SettingsError(f"{replicas} replicas are none: name 1 or more")
    for label in (name, service, namespace):
        if not LABEL.fullmatch(label):
            raise SettingsError(
                f"{label!r} is no name in Kubernetes: lower-case letters, digits and hyphens make one"
            )
    return [f"{name}-{ordinal}.{service}.{namespace}.svc:{port}" for ordinal in range(replicas)]


def spread(
    addresses: Sequence[tuple[Sequence[int], Sequence[str]]], shards: int
) -> list[list[str]]:
    """The addresses of each shard. Raises PlacementError unless each shard has some, once each."""
    replicas: list[list[str]] = [[] for _ in range(shards)]
    for chosen, urls in addresses:
        for url in urls:
            check_address(url)
        strange = [shard for shard in chosen if shard >= shards]
        if strange:
            raise PlacementError(f"there are no shards {strange}: the last one is {shards - 1}")
        for shard in chosen:
            replicas[shard] += urls
    nowhere = [shard for shard, urls in enumerate(replicas) if not urls]
    if nowhere:
        raise PlacementError(f"shards {nowhere} are placed nowhere: name who holds them")
    twice = [shard for shard, urls in enumerate(replicas) if len(urls) != len({*urls})]
    if twice:
        raise PlacementError(f"shards {twice} have one address twice: name each replica once")
    return replicas


def check_address(url: str) -> None:
    """Raise PlacementError for what is not host:port."""
    match = ADDRESS.fullmatch(url)
    if match is None or not 0 < int(match[2]) < 65_536:
        raise PlacementError(f"{url!r} is no address: write host:port, the node's gRPC port")
