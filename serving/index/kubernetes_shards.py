"""The shards of one generation as Kubernetes objects.

Service (headless)          a stable name for each pod
NetworkPolicy               gateways reach the gRPC port, nobody reaches more
per group of shards
    StatefulSet             one pod per replica, on different machines
    PodDisruptionBudget     one of them at a time may be evicted
"""

from serving.index.kubernetes_fleet import GRPC_PORT, Fleet, Group
from serving.index.kubernetes_parts import (
    Labels,
    Object,
    claim,
    confined,
    described,
    disruption_budget,
    mount,
    pod,
    resources,
    scratch,
    selector,
    unprivileged,
)

HTTP_PORT = 8000  # Triton's: asked by the kubelet whether all shards are loaded
USER = 10001  # of docker/index.Dockerfile
STOP_S = 30  # more than a node takes to finish what it accepted
# A gateway looks a name up again 30 s after the last time at the earliest (gRPC's default): a pod that came
# back under another address is found before the next one is taken away.
FOUND_AGAIN_S = 60
SHARED_MEMORY_MIB = 256  # tensors on their way; containers have 64 by default
SCRATCH_MIB = 1024  # Triton's log, and links to its backend


def shard_objects(fleet: Fleet) -> list[Object]:
    """Everything that a generation needs, and that goes when it goes."""
    objects = [headless_service(fleet), network_policy(fleet)]
    for group in fleet.groups:
        labels = {**labels_of(fleet), "group": str(group.number)}
        name, namespace = fleet.stateful_set(group), fleet.cluster.namespace
        objects.append(
            described("StatefulSet", name, namespace, labels, stateful_set(fleet, group, labels))
        )
        objects.append(disruption_budget(name, namespace, labels))
    return objects


def labels_of(fleet: Fleet) -> dict[str, str]:
    """What all pods of the generation have in common."""
    return {
        "app": "farshore-shards",
        "index": fleet.cluster.name,
        "generation": fleet.generation.name,
    }


def gateway_labels(fleet: Fleet) -> dict[str, str]:
    """Those of the pods that may ask shards."""
    return {"app": "farshore-gateway", "index": fleet.cluster.name}


def headless_service(fleet: Fleet) -> Object:
    """Names the pods, also while they load: whoever asks then is refused at once and tries again soon,
    where a name that is not there is looked up again after up to two minutes (gRPC's backoff).
    """
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": labels_of(fleet),
        "ports": [{"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc"}],
    }
    return described("Service", fleet.service, fleet.cluster.namespace, labels_of(fleet), spec)


def network_policy(fleet: Fleet) -> Object:
    """Shards trust whoever reaches them; they themselves call nobody."""
    gateways = {"podSelector": selector(gateway_labels(fleet))}
    spec = {
        "podSelector": selector(labels_of(fleet)),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [gateways], "ports": [{"protocol": "TCP", "port": GRPC_PORT}]}],
        "egress": [],
    }
    return described(
        "NetworkPolicy", fleet.service, fleet.cluster.namespace, labels_of(fleet), spec
    )


def stateful_set(fleet: Fleet, group: Group, labels: Labels) -> Object:
    """One pod per replica. All start at once; they are replaced one by one."""
    spec: Object = {
        "serviceName": fleet.service,
        "replicas": fleet.cluster.replicas,
        "podManagementPolicy": "Parallel",
        "minReadySeconds": FOUND_AGAIN_S,
        "selector": selector(labels),
        "template": pod(labels, pod_spec(fleet, group, labels)),
    }
    if fleet.cluster.writable:
        spec["volumeClaimTemplates"] = [state_claim(group, labels)]
    return spec


def pod_spec(fleet: Fleet, group: Group, labels: Labels) -> Object:
    """A node, apart from the other replicas of its shards."""
    volumes = [
        claim("index", fleet.cluster.index_claim),
        scratch("tmp", SCRATCH_MIB),
        scratch("shm", SHARED_MEMORY_MIB, memory=True),
    ]
    if not fleet.cluster.writable:
        volumes.append(scratch("state", SCRATCH_MIB))
    owner = {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
    return {
        "terminationGracePeriodSeconds": STOP_S,
        "securityContext": {
            **unprivileged(),
            **owner,
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "affinity": {"podAntiAffinity": apart(labels)},
        "containers": [node_container(fleet, group)],
        "volumes": volumes,
    }


def apart(labels: Labels) -> Object:
    """No two of these pods on one machine."""
    term = {"labelSelector": selector(labels), "topologyKey": "kubernetes.io/hostname"}
    return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}


def node_container(fleet: Fleet, group: Group) -> Object:
    """`python -m serving.index node`.

    No liveness probe: the node starts a Triton that died again and ends when that does not help, and a probe
    that a busy shard answers late would end it when it is needed most.
    """
    return {
        "name": "node",
        "image": fleet.cluster.node_image,
        "args": node_arguments(fleet, group),
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "http", "containerPort": HTTP_PORT},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/v2/health/ready", "port": "http"},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
        },
        "resources": resources(fleet.cluster.cpus, group.memory_mib),
        "securityContext": confined(),
        "volumeMounts": [
            mount("index", "/index", read_only=True),
            mount("state", "/state"),
            mount("tmp", "/tmp"),
            mount("shm", "/dev/shm"),
        ],
    }


def node_arguments(fleet: Fleet, group: Group) -> list[str]:
    """Of the image's entrypoint. It listens on all addresses of its pod; the NetworkPolicy says to whom."""
    return [
        *("node", "--generation", f"/index/generations/{fleet.generation.name}"),
        *("--shards", ",".join(map(str, group.shards))),
        *("--directory", "/state", "--memory", f"{group.memory_mib}MiB"),
        *("--host", "0.0.0.0", "--grpc-port", str(GRPC_PORT), "--http-port", str(HTTP_PORT)),
    ]


def state_claim(group: Group, labels: Labels) -> Object:
    """The volume of a pod for what is written to it; it stays when the StatefulSet goes."""
    return {
        "metadata": {"name": "state", "labels": dict(labels)},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{group.disk_gib}Gi"}},
        },
    }
