"""The gateways of an index as Kubernetes objects, and the placement that they watch.

A pod holds a gateway and a Triton of its own with the encoder of queries: gRPC keeps to one connection, which
a Service would tie to one Triton. It is started on what the trusted key signed, as in docker/compose.yaml.
"""

from serving.index.kubernetes_fleet import Fleet
from serving.index.kubernetes_parts import (
    Labels,
    Object,
    claim,
    config,
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
from serving.index.kubernetes_shards import gateway_labels
from serving.index.placement import PLACEMENT_NAME

PORT = 8080
ENCODER_PORT = 8001  # docker/triton.Dockerfile
STOP_S = 30  # more than what leaves the Service late (5 s) and the longest request (10 s) take
TRUSTED_KEY = "farshore-trusted-key"  # ConfigMap with the signer's public key as farshore.pub
# As docker/compose.yaml has them.
GATEWAY_CPUS, GATEWAY_MIB = 1, 512
ENCODER_CPUS, ENCODER_MIB, SHARED_MEMORY_MIB = 2, 4096, 256
SCRATCH_MIB = 1024


def placement_objects(fleet: Fleet) -> list[Object]:
    """The ConfigMap with placement.json; replacing it is what switches the generation."""
    text = fleet.placement.model_dump_json(indent=2) + "\n"
    labels = gateway_labels(fleet)
    name, namespace = placement_name(fleet), fleet.cluster.namespace
    return [described("ConfigMap", name, namespace, labels, {PLACEMENT_NAME: text})]


def placement_name(fleet: Fleet) -> str:
    """The same for all generations."""
    return f"{fleet.cluster.name}-placement"


def gateway_objects(fleet: Fleet) -> list[Object]:
    """What stays when generations come and go."""
    labels, namespace = gateway_labels(fleet), fleet.cluster.namespace
    name = f"{fleet.cluster.name}-gateway"
    service = {
        "selector": labels,
        "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
    }
    # The encoder's Triton listens on the pod's address as well: nobody reaches it there.
    policy = {
        "podSelector": selector(labels),
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": PORT}]}],
    }
    return [
        described("Service", name, namespace, labels, service),
        described("NetworkPolicy", name, namespace, labels, policy),
        described("Deployment", name, namespace, labels, deployment(fleet, labels)),
        disruption_budget(name, namespace, labels),
    ]


def deployment(fleet: Fleet, labels: Labels) -> Object:
    """Gateways, on different machines where that is possible."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": selector(labels),
    }
    spec = {
        "terminationGracePeriodSeconds": STOP_S,
        "securityContext": unprivileged(),
        "topologySpreadConstraints": [spread],
        "initContainers": [verify_container(fleet)],
        "containers": [gateway_container(fleet), encoder_container(fleet)],
        "volumes": [
            claim("models", fleet.cluster.models_claim),
            config("placement", placement_name(fleet)),
            config("trusted-key", TRUSTED_KEY),
            scratch("tmp", SCRATCH_MIB),
            scratch("encoder-tmp", SCRATCH_MIB),
            scratch("encoder-shm", SHARED_MEMORY_MIB, memory=True),
        ],
    }
    return {
        "replicas": fleet.cluster.gateways,
        "selector": selector(labels),
        "template": pod(labels, spec),
    }


def verify_container(fleet: Fleet) -> Object:
    """Ends well when the repository is what was signed; before that nothing else of the pod starts."""
    return {
        "name": "verify",
        "image": fleet.cluster.gateway_image,
        "args": [
            *("python", "-m", "serving.verify"),
            *("--repository", "/models", "--trusted-key", "/trusted/farshore.pub"),
        ],
        "resources": resources(GATEWAY_CPUS, GATEWAY_MIB),
        "securityContext": confined(),
        "volumeMounts": [
            mount("models", "/models", read_only=True),
            mount("trusted-key", "/trusted", read_only=True),
            mount("tmp", "/tmp"),
        ],
    }


def gateway_container(fleet: Fleet) -> Object:
    """`python -m serving` in front of the shards.

    It is asked to stop a little late: meanwhile the Service learns that it leaves.
    """
    return {
        "name": "gateway",
        "image": fleet.cluster.gateway_image,
        "args": gateway_arguments(fleet),
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "resources": resources(GATEWAY_CPUS, GATEWAY_MIB),
        "securityContext": confined(),
        "volumeMounts": [
            mount("models", "/models", read_only=True),
            mount("placement", "/placement", read_only=True),
            mount("tmp", "/tmp"),
        ],
    }


def gateway_arguments(fleet: Fleet) -> list[str]:
    """The program, which the image would run with other options."""
    return [
        *("python", "-m", "serving", "--repository", "/models"),
        *("--triton-url", f"127.0.0.1:{ENCODER_PORT}", "--index", f"/placement/{PLACEMENT_NAME}"),
        *("--host", "0.0.0.0", "--port", str(PORT)),
        *(["--writable-index"] if fleet.cluster.writable else []),
    ]


def encoder_container(fleet: Fleet) -> Object:
    """Triton with the packaged repository, as its image runs it; /readyz of the gateway asks it too.

    It outlives the gateway's last requests.
    """
    return {
        "name": "encoder",
        "image": fleet.cluster.triton_image,
        "lifecycle": {"preStop": {"sleep": {"seconds": 16}}},
        "resources": resources(ENCODER_CPUS, ENCODER_MIB),
        "securityContext": confined(),
        "volumeMounts": [
            mount("models", "/models", read_only=True),
            mount("encoder-tmp", "/tmp"),
            mount("encoder-shm", "/dev/shm"),
        ],
    }
