"""A placement and what is connected to it: the shards, their replicas, and what is known of these."""

from dataclasses import dataclass

from tritonclient.grpc import service_pb2_grpc

from serving.index.channels import Channels
from serving.index.client import ShardClient
from serving.index.placement import Placement
from serving.index.replicas import Replica
from serving.index.repository import model_name
from serving.index.shard_calls import ShardState


@dataclass(frozen=True, eq=False)
class Topology:
    """One placement, connected."""

    placement: Placement
    shards: tuple[ShardState, ...]


def connect(placement: Placement, before: Topology | None, channels: Channels) -> Topology:
    """A topology that keeps what is known of replicas that stay."""
    known = {
        (replica.client.url, replica.client.model): replica
        for shard in (before.shards if before else ())
        for replica in shard.replicas
    }
    shards = []
    for number, urls in enumerate(placement.replicas):
        model = model_name(placement.index, placement.generation, number)
        replicas = [known.get((url, model)) or replica_at(url, model, channels) for url in urls]
        shards.append(ShardState(number, replicas))
    return Topology(placement, tuple(shards))


def replica_at(url: str, model: str, channels: Channels) -> Replica:
    """A replica of which nothing is known yet."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channels.to(url))
    return Replica(ShardClient(stub, url, model))
