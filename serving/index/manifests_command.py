"""`python -m serving.index manifests`: the Kubernetes objects of an index, as YAML files.

<output>/shards-<generation>.yaml   its StatefulSets and all that comes and goes with them
<output>/placement.yaml             which generation is asked: apply it when that one is ready
<output>/gateway.yaml               the gateways, which stay
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from models.files import write_atomically

if TYPE_CHECKING:  # they import FAISS, which most commands do without
    from serving.index.kubernetes_fleet import Cluster, Fleet

OPTIONS = (
    *("name", "namespace", "replicas", "cpus", "gateways", "writable", "index_claim"),
    *("models_claim", "node_image", "gateway_image", "triton_image"),
)


def add_manifests(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`manifests`: an index on Kubernetes."""
    manifests = commands.add_parser("manifests", help="write an index as Kubernetes objects")
    add = manifests.add_argument
    add("--generation", type=Path, required=True, help="directory of the generation, for its sizes")
    add("--output", type=Path, required=True, help="directory for the YAML files")
    add("--memory", required=True, help="that a pod of shards may take at most, such as 16GB")
    add("--replicas", type=int, help="pods of each shard, on different machines (default 2)")
    add("--cpus", type=int, help="whole CPUs of a pod of shards (default 2)")
    add("--gateways", type=int, help="pods of the gateway (default 2)")
    add("--writable", action="store_true", help="take writes, kept on a volume of each pod")
    add("--name", help="that all objects' names begin with (default: the index's)")
    add("--namespace", help="default: farshore")
    add("--index-claim", help="volume with the index's directory (default farshore-index)")
    add("--models-claim", help="volume with the encoder's repository (default farshore-models)")
    add("--node-image", help="of docker/index.Dockerfile (default farshore-index:local)")
    add("--gateway-image", help="of docker/gateway.Dockerfile (default farshore-gateway:local)")
    add("--triton-image", help="of docker/triton.Dockerfile (default farshore-triton:cpu)")
    manifests.set_defaults(command=run_manifests)


def run_manifests(options: argparse.Namespace) -> None:
    """Write the files and say what is in them."""
    fleet = write_manifests(options)
    replicas = fleet.cluster.replicas
    for group in fleet.groups:
        print(
            f"{fleet.stateful_set(group)}: shards {', '.join(map(str, group.shards))} in {replicas} pods of "
            f"{group.memory_mib:,} MiB"
        )
    print(
        f"{options.output}: kubectl apply -f {shards_path(options.output, fleet)}, then the others"
    )


def write_manifests(options: argparse.Namespace) -> "Fleet":
    """Write what the options say. Raises SettingsError, DoesNotFitError or CorruptIndexError."""
    from serving.index.generation import read_generation, read_segment_record, shard_directory
    from serving.index.kubernetes_fleet import fleet_of
    from serving.index.kubernetes_gateway import gateway_objects, placement_objects
    from serving.index.kubernetes_parts import yaml_of
    from serving.index.kubernetes_shards import shard_objects

    generation = read_generation(options.generation)
    directories = [shard_directory(options.generation, n) for n in range(generation.shards)]
    rows = [read_segment_record(directory).rows for directory in directories]
    fleet = fleet_of(generation, rows, cluster_of(options, generation.index))
    texts = {
        shards_path(options.output, fleet): yaml_of(shard_objects(fleet)),
        options.output / "placement.yaml": yaml_of(placement_objects(fleet)),
        options.output / "gateway.yaml": yaml_of(gateway_objects(fleet)),
    }
    for path, text in texts.items():
        write_atomically(path, text.encode())
    return fleet


def shards_path(output: Path, fleet: "Fleet") -> Path:
    """A file for each generation: both are needed while one follows the other."""
    return output / f"shards-{fleet.generation.name}.yaml"


def cluster_of(options: argparse.Namespace, index: str) -> "Cluster":
    """The cluster that the options describe; what they leave out is as Cluster has it."""
    from serving.index.kubernetes_fleet import Cluster
    from serving.index.quantities import bytes_of

    said = {name: getattr(options, name) for name in OPTIONS}
    given = {name: value for name, value in said.items() if value is not None}
    return Cluster.model_validate(
        {"name": index, "memory_bytes": bytes_of(options.memory), **given}
    )
