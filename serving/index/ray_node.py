"""A node in the hands of Ray: an actor that keeps one Triton with its shards.

Ray starts the actor again, on another machine when its own died. Triton dies with the actor: its keeper ends
it when the process that launched it is gone.
"""

import threading

from models.manifest import ManifestError, Record
from serving.errors import ServingError
from serving.index.node import NodeOrder, run_node
from serving.index.ray_cluster import first_line, ray
from serving.triton.launch import RunningTriton

RETRY_S = 2.0  # the process that held the state before may need a moment to end


class NodeReport(Record):
    """How a node is. `address` is where it answers; empty while it does not, and `reason` may say why."""

    address: str
    reason: str
    machine: str
    """IP address of its machine."""


class ShardNode:
    """The actor. It serves from when it is made until it is stopped, whoever looks on."""

    def __init__(self, order: str) -> None:
        """`order` is a NodeOrder as JSON; its host becomes the address of this machine in the cluster."""
        self._machine = ray.util.get_node_ip_address()
        read = NodeOrder.model_validate_json(order)
        self._order = read.model_copy(update={"host": self._machine})
        self._triton: RunningTriton | None = None
        self._reason = ""
        self._stopping = threading.Event()
        self._keeping = threading.Thread(target=self._keep, daemon=True)
        self._keeping.start()

    def report(self) -> NodeReport:
        """How the node is now."""
        triton = self._triton
        ready = triton is not None and triton.state == "ready"
        reason = self._reason if self._keeping.is_alive() else "its thread ended, see Ray's log"
        return NodeReport(
            address=triton.grpc_url if ready and triton is not None else "",
            reason=reason,
            machine=self._machine,
        )

    def stop(self) -> None:
        """End the node; what was written to it is safe."""
        self._stopping.set()
        triton = self._triton
        if triton is not None:
            triton.stop()
        self._keeping.join()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                self._serve()
            except (ServingError, ManifestError, OSError) as error:
                self._reason = first_line(error)
            self._stopping.wait(RETRY_S)

    def _serve(self) -> None:
        with run_node(self._order) as triton:
            self._triton, self._reason = triton, ""
            try:
                if not self._stopping.is_set():
                    triton.wait_until_ended()
            finally:
                self._triton = None
