"""Parts that several Kubernetes objects share, and how objects become YAML.

Pods keep to the "restricted" profile of Kubernetes' Pod Security Standards.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

Object = dict[str, Any]
Labels = Mapping[str, str]

HEADER = (
    "# Written by `python -m serving.index manifests`: run it again, or patch it with kustomize.\n"
)


def described(kind: str, name: str, namespace: str, labels: Labels, spec: Object) -> Object:
    """An object of the API that has its kind; a ConfigMap's `spec` is its data."""
    versions = {
        "StatefulSet": "apps/v1",
        "Deployment": "apps/v1",
        "PodDisruptionBudget": "policy/v1",
        "NetworkPolicy": "networking.k8s.io/v1",
    }
    return {
        "apiVersion": versions.get(kind, "v1"),
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "data" if kind == "ConfigMap" else "spec": spec,
    }


def selector(labels: Labels) -> Object:
    """What selects pods by their labels."""
    return {"matchLabels": dict(labels)}


def disruption_budget(name: str, namespace: str, labels: Labels) -> Object:
    """One pod at a time may be evicted. Of a single one, too: else its machine could never be drained."""
    spec = {"maxUnavailable": 1, "selector": selector(labels)}
    return described("PodDisruptionBudget", name, namespace, labels, spec)


def pod(labels: Labels, spec: Object) -> Object:
    """The template of a pod.

    Without links to services: a service's name would become a FARSHORE_* variable, which are settings.
    """
    common = {"automountServiceAccountToken": False, "enableServiceLinks": False}
    return {"metadata": {"labels": dict(labels)}, "spec": {**common, **spec}}


def unprivileged() -> Object:
    """securityContext of a pod."""
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def confined() -> Object:
    """securityContext of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def resources(cpus: int, memory_mib: int) -> Object:
    """Requests that are the limits, in whole CPUs: the static CPU manager then gives cores of its own."""
    return {
        "requests": {"cpu": str(cpus), "memory": f"{memory_mib}Mi"},
        "limits": {"cpu": str(cpus), "memory": f"{memory_mib}Mi"},
    }


def claim(name: str, claim_name: str) -> Object:
    """A volume that is there already and is only read."""
    return {"name": name, "persistentVolumeClaim": {"claimName": claim_name, "readOnly": True}}


def config(name: str, config_map: str) -> Object:
    """A volume of the files in a ConfigMap."""
    return {"name": name, "configMap": {"name": config_map}}


def scratch(name: str, size_mib: int, *, memory: bool = False) -> Object:
    """A volume that begins empty with its pod; one in memory counts as the pod's memory."""
    medium = {"medium": "Memory"} if memory else {}
    return {"name": name, "emptyDir": {**medium, "sizeLimit": f"{size_mib}Mi"}}


def mount(name: str, path: str, *, read_only: bool = False) -> Object:
    """Where a container sees a volume. Never a single file of it: that would not follow changes."""
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


class Dumper(yaml.SafeDumper):
    """YAML as people write it: no anchors, texts of several lines as such."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Repeat what is the same."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent lists below their key."""
        super().increase_indent(flow, False)


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A text; a block where it has several lines."""
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


Dumper.add_representer(str, represent_text)


def yaml_of(objects: Iterable[Object] | Sequence[Object]) -> str:
    """One YAML file of several objects."""
    dumped = yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, explicit_start=True, width=110)
    return HEADER + str(dumped)
