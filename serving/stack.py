"""Triton and the gateway together: started in order, stopped in reverse, nothing left behind."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import SO_REUSEADDR, SOL_SOCKET, socket

import grpc
import uvicorn
from fastapi import FastAPI
from tritonclient.grpc import service_pb2, service_pb2_grpc

from models.manifest import Manifest, read_manifest
from serving.errors import ModelUnavailableError, TritonDiedError, UnservableError
from serving.gateway.app import create_app
from serving.gateway.settings import Settings
from serving.index.gpu import NO_GPU, GpuSettings
from serving.index.local import run_local
from serving.index.placement import PLACEMENT_NAME
from serving.triton.launch import RunningTriton, run_triton
from serving.triton.ports import check_port_free

RUN_DIRECTORY = Path("build/run")
READY_TIMEOUT_S = 60.0  # for a Triton that someone else started
KEEP_ALIVE_S = 75  # longer than load balancers keep an idle connection (60 s)
LOG_LINES = 15


@dataclass(frozen=True)
class Backend:
    """A Triton that serves the model, and where to look when it stops."""

    grpc_url: str
    where_to_look: str


@dataclass(frozen=True)
class IndexOptions:
    """The directory of an index, to run its shards here, or a placement file of shards that run elsewhere."""

    path: Path
    memory_bytes: int
    gpu: GpuSettings = NO_GPU


def serve(
    repository: Path,
    settings: Settings,
    triton_url: str | None = None,
    trusted_key: Path | None = None,
    index: IndexOptions | None = None,
) -> None:
    """Serve a packaged repository until SIGINT or SIGTERM, which raise KeyboardInterrupt.

    Starts a Triton of its own, on what the owner of `trusted_key` signed (see run_triton), unless
    `triton_url` (host:port, gRPC) names one; `index` is an index to search as well. Raises ServingError or
    ManifestError when it cannot start; Triton is stopped after the gateway in every case.
    """
    manifest = read_manifest(repository)
    refuse_unservable(manifest, repository)
    with reserve_port(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        with (
            backend(repository, manifest, port, triton_url, trusted_key) as triton,
            placed(index) as placement,
        ):
            app = create_app(manifest, settings, triton.grpc_url, triton.where_to_look, placement)
            listener.listen(2048)  # from here on connections queue instead of being refused
            print(banner(manifest, settings.host, port, triton, placement), flush=True)
            uvicorn.Server(uvicorn_config(app, settings)).run(sockets=[listener])


@contextmanager
def placed(index: IndexOptions | None) -> Iterator[Path | None]:
    """Where an index's placement is; its shards run here unless they are placed elsewhere."""
    if index is None:
        yield None
    elif index.path.is_file():
        yield index.path
    else:
        print(f"starting the shards of {index.path} ...", flush=True)
        with run_local(index.path, None, index.memory_bytes, gpu=index.gpu) as running:
            print(f"{len(running.placement.replicas)} shards: gRPC at {running.triton.grpc_url}")
            yield index.path / PLACEMENT_NAME


def refuse_unservable(manifest: Manifest, repository: Path) -> None:
    """Raise UnservableError for what /v1/embeddings cannot answer with."""
    alone = f"run Triton alone with `python -m serving.triton --repository {repository}`"
    if manifest.task != "embed":
        raise UnservableError(
            f"{manifest.name} is for {manifest.task}, the gateway answers for embedders: {alone}"
        )
    if manifest.vectors != "fp32":
        raise UnservableError(
            f"{manifest.name} sends its vectors as {manifest.vectors}, the gateway reads fp32: {alone}, "
            "or package with serving.vectors: fp32"
        )


@contextmanager
def reserve_port(host: str, port: int) -> Iterator[socket]:
    """Bind the gateway's port, 0 for any free one, before anything slow starts.

    Raises PortInUseError.
    """
    check_port_free(host, port)
    with socket() as listener:
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind((host, port))
        yield listener


@contextmanager
def backend(
    repository: Path,
    manifest: Manifest,
    port: int,
    triton_url: str | None,
    trusted_key: Path | None,
) -> Iterator[Backend]:
    """The Triton at `triton_url`, or one of our own that lives as long as the context."""
    if triton_url is not None:
        found = Backend(triton_url, "start it, or see its own log")
        print(f"waiting for {manifest.name} at Triton on {triton_url} ...", flush=True)
        wait_ready(found, manifest, READY_TIMEOUT_S)
        yield found
        return
    log_path = RUN_DIRECTORY / f"triton-{port}.log"  # several stacks may share the directory
    print(f"starting Triton with {manifest.name} ({manifest.variant}) ...", flush=True)
    with run_triton(repository, log_path=log_path, trusted_key=trusted_key) as triton:
        threading.Thread(target=announce_death, args=[triton], daemon=True).start()
        yield Backend(triton.grpc_url, f"its log on the server is {log_path}")


def wait_ready(triton: Backend, manifest: Manifest, timeout_s: float) -> None:
    """Wait for the model at a Triton that was started elsewhere. Raises ModelUnavailableError."""
    request = service_pb2.ModelReadyRequest(name=manifest.name, version=str(manifest.version))
    give_up_s = time.monotonic() + timeout_s
    with grpc.insecure_channel(triton.grpc_url) as channel:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelReady
        while (remaining_s := give_up_s - time.monotonic()) > 0:
            try:
                if ask(request, timeout=remaining_s, wait_for_ready=True).ready:
                    return
            except grpc.RpcError:
                pass
            time.sleep(min(0.2, remaining_s))
    raise ModelUnavailableError(
        f"{manifest.name} version {manifest.version} was not ready at {triton.grpc_url} within "
        f"{timeout_s:.0f} s: check the address (it is gRPC's, not HTTP's) and that it serves "
        "this repository"
    )


def announce_death(triton: RunningTriton) -> None:
    """Say once, in the terminal, that Triton is gone for good; the gateway then answers 503."""
    try:
        triton.wait_until_ended()
    except TritonDiedError as error:
        tail = "".join(f"  {line}\n" for line in triton.log_tail(LOG_LINES))
        message = f"{error}\nIts last lines:\n{tail}Until then the gateway answers 503."
        print(message, file=sys.stderr, flush=True)


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn without what costs time on every request; it drains for as long as one may take."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks for a client's address
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.deadline_s) + 1,
    )


def banner(
    manifest: Manifest, host: str, port: int, triton: Backend, placement: Path | None
) -> str:
    """What a person needs next: the addresses, and a request to paste."""
    url = f"http://{host}:{port}"
    more = "/v1/search /v1/lookup " if placement else ""
    return f"""\
{manifest.name} {manifest.version} ({manifest.variant}, digest {manifest.digest[:12]}) is served at
  {url}/v1/embeddings  also {more}/v1/models /readyz /healthz /metrics /docs
  Triton: gRPC at {triton.grpc_url}; {triton.where_to_look}
Try it:
  curl -s {url}/v1/embeddings -H 'Content-Type: application/json' \\
    -d '{{"model": "{manifest.name}", "input": "how do I reset my password?"}}'
Ctrl-C stops it."""
