"""`python -m serving.index`: plan, build, serve and switch an index of vectors."""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from models.files import write_atomically
from models.manifest import ManifestError
from serving.errors import ServingError
from serving.index.gpu_options import add_gpu, settings_from
from serving.index.layout import Kind
from serving.index.manifests_command import add_manifests
from serving.index.metric import Metric
from serving.index.probe_command import add_probe
from serving.index.progress import console, progress
from serving.index.quantities import bytes_of, shards_of

DEFAULT_MEMORY = "4GB"
NOTHING_KNOWN = "nothing yet, no recall is known: give --sample"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused with a reason, 130 stopped by Ctrl-C."""
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have set SIGINT to be ignored
        signal.signal(number, signal.default_int_handler)
    try:
        options.command(options)
    except (ServingError, ManifestError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 130
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.index", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    add_plan(commands)
    add_build(commands)
    add_serve(commands)
    add_node(commands)
    add_switch(commands)
    add_ray_serve(commands)
    add_place(commands)
    add_manifests(commands)
    add_probe(commands)
    return parser.parse_args(arguments)


def add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`plan`: which layout on how many nodes."""
    plan = commands.add_parser("plan", help="which layout to build, for how many nodes")
    add = plan.add_argument
    add("--rows", required=True, help="such as 29.3M")
    add("--dim", type=int, required=True, help="components of a vector")
    add("--node-memory", required=True, help="such as 16GB")
    add("--recall", type=float, required=True, help="share of the exact results to find, as 0.95")
    add("--k", type=int, default=10, help="results of a search")
    add(
        "--sample", type=Path, help=".npy or Parquet file of vectors to measure recall and speed on"
    )
    add("--queries", type=Path, help=".npy file; else some of the sample are held out")
    add("--id-column", default="id", help="of a Parquet file")
    add("--vector-column", default="vector", help="of a Parquet file")
    add("--metric", choices=get_args(Metric), default="inner_product")
    add("--nodes", type=int, help="at most (default: as many as are needed)")
    add("--shards", type=int, help="exactly (default: as few as fit)")
    add("--headroom", type=float, default=0.1, help="share of a node's memory that stays free")
    add("--max-read", default="10MB", help="that a search may read from the disk of a node")
    add("--read-only", action="store_true", help="nothing is written between two builds")
    add("--json", type=Path, help="file to write everything to")
    plan.set_defaults(command=run_plan)


def add_build(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`build`: vectors or texts into a generation."""
    build = commands.add_parser("build", help="vectors or texts -> a generation of an index")
    add = build.add_argument
    add("index", type=Path, help="directory of the index; its last part names it")
    add("--name", required=True, help="of the generation, such as g1")
    add("--vectors", type=Path, nargs="+", help="one .npy file, or Parquet files")
    add("--ids", type=Path, help=".npy file of whole numbers; else rows are numbered")
    add("--id-column", default="id", help="of Parquet files")
    add("--vector-column", default="vector", help="of Parquet files")
    add("--texts", type=Path, help="JSON lines with id and text, encoded by --encoder")
    add("--encoder", type=Path, help="packaged repository of the encoder of documents")
    add("--from-generation", metavar="NAME", help="one of this index, with what was written to it")
    add(
        "--metric",
        choices=get_args(Metric),
        help="default: the followed generation's, else inner_product",
    )
    add("--layout", choices=get_args(Kind), default="ivf-sq8")
    add("--lists", type=int, default=0, help="of an IVF layout (default: 4 sqrt(rows per shard))")
    add("--code-bytes", type=int, default=0, help="of an ivf-pq layout (default: dim / 8)")
    add("--effort", type=int, default=0, help="nprobe or efSearch of searches that do not say")
    add("--rescore", type=int, default=0, help="candidates per result scored again exactly")
    add("--on-disk", action="store_true", help="leave codes on disk")
    add("--shards", type=int, default=1)
    add("--space", default="", help="whose vectors these are (manifest.space of their encoder)")
    add(
        "--ray", metavar="ADDRESS", help="finish shards on this Ray cluster (auto: the running one)"
    )
    build.set_defaults(command=run_build)


def add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`serve`: all shards on this machine."""
    serve = commands.add_parser("serve", help="all shards of an index on one Triton, until Ctrl-C")
    serve.add_argument("index", type=Path)
    serve.add_argument("--generation", help="default: the one served last, else the newest")
    serve.add_argument("--memory", default=DEFAULT_MEMORY, help="that the shards may take")
    serve.add_argument("--threads", type=int, default=1, help="of one search of one shard")
    add_gpu(serve)
    serve.set_defaults(command=run_serve)


def add_node(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`node`: some shards on this machine."""
    node = commands.add_parser("node", help="some shards on one Triton, until Ctrl-C")
    add = node.add_argument
    add("--generation", type=Path, required=True, help="directory of the generation")
    add("--shards", required=True, help="such as 0,1 or 0-3")
    add("--directory", type=Path, required=True, help="for logs and compacted segments: keep it")
    add("--memory", default=DEFAULT_MEMORY, help="of this node")
    add("--host", default="127.0.0.1", help="loopback or the cluster's network, nothing public")
    add("--grpc-port", type=int, help="a free one if left out")
    add("--http-port", type=int, help="of /v2/health/ready; a free one if left out")
    add("--threads", type=int, default=1, help="of one search of one shard")
    add("--ready-file", type=Path, help="where to write the address, as JSON, once ready")
    add_gpu(node)
    node.set_defaults(command=run_node_until_stopped)


def add_switch(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`switch`: another generation."""
    switch = commands.add_parser("switch", help="serve another generation, without an interruption")
    add = switch.add_argument
    add("index", type=Path)
    add("--generation", required=True)
    add("--memory", default=DEFAULT_MEMORY, help="for both generations side by side")
    add("--drain-s", type=float, default=12.0, help="until the old one is unloaded")
    add("--lose-writes", action="store_true", help="give up what the new one does not hold")
    add_gpu(switch)
    switch.set_defaults(command=run_switch)


def add_ray_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`ray-serve`: an index on the machines of a Ray cluster."""
    serve = commands.add_parser("ray-serve", help="an index on a Ray cluster, until Ctrl-C")
    add = serve.add_argument
    add("index", type=Path, help="its directory, on a file system that all machines share")
    add("--address", default="auto", help="host:port of the cluster (auto: the one that runs here)")
    add("--generation", help="default: the one served last, else the newest")
    add("--replicas", type=int, default=1, help="of each shard, on different machines")
    add("--memory-per-node", default=DEFAULT_MEMORY, help="of one Triton with its shards")
    add("--cpus-per-node", type=float, default=1.0, help="reserved with Ray")
    add("--gpus-per-node", type=float, default=0.0, help="reserved with Ray")
    add("--threads", type=int, default=1, help="of one search of one shard")
    add("--lose-writes", action="store_true", help="give up what the one served now holds alone")
    add_gpu(serve)
    serve.set_defaults(command=run_ray_serve)


def add_place(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`place`: where nodes run that something else starts."""
    place = commands.add_parser("place", help="write placement.json, for Kubernetes or by hand")
    add = place.add_argument
    add("--generation", type=Path, required=True, help="directory of the generation")
    add("--at", action="append", metavar="SHARDS=HOST:PORT,...", help="such as 0-3=10.0.0.1:8001")
    add("--stateful-set", action="append", metavar="SHARDS=NAME", help="such as 0-3=shards-0")
    add("--replicas", type=int, default=2, help="pods of each StatefulSet")
    add("--service", default="shards", help="headless service of the StatefulSets")
    add("--namespace", default="farshore", help="that they are in")
    add("--port", type=int, default=8001, help="gRPC port of the pods")
    add("--output", type=Path, required=True, help="the placement.json to write")
    place.set_defaults(command=run_place)


def run_plan(options: argparse.Namespace) -> None:
    """Compare layouts and say which to build."""
    from serving.index.plan_command import check_report, plan_index, table_of

    with progress() as announce:
        report = plan_index(options, announce)
    console.print(table_of(report))
    if options.json is not None:
        write_atomically(options.json, report.model_dump_json(indent=2).encode())
    check_report(report)
    console.print(f"recommended: {report.recommended or NOTHING_KNOWN}", soft_wrap=True)


def run_build(options: argparse.Namespace) -> None:
    """Build a generation and say what came out."""
    from serving.index.build_command import build_generation

    with progress() as announce:
        generation = build_generation(options, announce)
    layout = generation.layout.words
    console.print(
        f"built {options.index / 'generations' / generation.name}: {generation.rows:,} rows in "
        f"{generation.shards} shards, {layout}\nserve it: python -m serving.index serve {options.index}",
        soft_wrap=True,
    )


def run_serve(options: argparse.Namespace) -> None:
    """Serve all shards here until stopped."""
    from serving.index.local import run_local

    with run_local(
        options.index,
        options.generation,
        bytes_of(options.memory),
        options.threads,
        settings_from(options),
    ) as running:
        print(
            f"{running.placement.index} {running.placement.generation}: "
            f"{len(running.placement.replicas)} shards at {running.triton.grpc_url}; Ctrl-C stops it",
            flush=True,
        )
        running.triton.wait_until_ended()


def run_switch(options: argparse.Namespace) -> None:
    """Switch and say each step."""
    from serving.index.switch_command import switch_local

    switch_local(options, lambda line: console.print(line, highlight=False, soft_wrap=True))


def run_ray_serve(options: argparse.Namespace) -> None:
    """Place an index and say each change until stopped."""
    from serving.index.ray_command import serve_on_cluster

    serve_on_cluster(options, lambda line: print(line, flush=True))


def run_place(options: argparse.Namespace) -> None:
    """Write a placement and say what is in it."""
    from serving.index.place_command import write_static_placement

    placement = write_static_placement(options)
    nodes = {url for urls in placement.replicas for url in urls}
    print(f"{options.output}: {len(placement.replicas)} shards on {len(nodes)} nodes")


def run_node_until_stopped(options: argparse.Namespace) -> None:
    """Serve some shards here until stopped."""
    from serving.index.node import NodeOrder, run_node

    order = NodeOrder(
        generation=options.generation,
        shards=shards_of(options.shards),
        directory=options.directory,
        memory_bytes=bytes_of(options.memory),
        host=options.host,
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        threads=options.threads,
        gpu=settings_from(options),
    )
    if options.ready_file is not None:  # one left by a node that was killed
        options.ready_file.unlink(missing_ok=True)
    with run_node(order) as triton:
        print(f"shards {options.shards} at {triton.grpc_url}; Ctrl-C stops them", flush=True)
        if options.ready_file is not None:
            where = {"grpc": triton.grpc_url, "pid": triton.server_pid}
            write_atomically(options.ready_file, json.dumps(where).encode())
        triton.wait_until_ended()


if __name__ == "__main__":
    sys.exit(main())
