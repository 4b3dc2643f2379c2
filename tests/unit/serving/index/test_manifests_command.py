"""What `manifests` writes agrees with the programs, with the planner and with Kubernetes' own schemas.

No cluster is needed: what one alone could show is listed in docs/index-cluster.md.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving.__main__ import parse_arguments as parse_gateway_arguments
from serving.errors import DoesNotFitError, SettingsError
from serving.index.__main__ import main, parse_arguments
from serving.index.generation import (
    Generation,
    shard_directory,
    write_generation,
    write_segment_record,
)
from serving.index.kubernetes_fleet import MIB
from serving.index.layout import Layout
from serving.index.manifests_command import write_manifests
from serving.index.node import NodeOrder, mounts_of
from serving.index.placement import Placement, read_placement
from serving.index.plan import Size, node_need, shard_need
from serving.index.quantities import bytes_of, shards_of
from serving.triton.keeper import STOP_GRACE_S
from serving.triton.launch import KEEPER_MARGIN_S
from serving.verify import parse_arguments as parse_verify_arguments

EXAMPLE = Path(__file__).parents[4] / "docker/k8s"
VERSIONS = ("1.30", "1.37")  # the oldest that has all fields, and the newest that is known here
IVF = Layout(kind="ivf-sq8", lists=10_826, effort=676)
RESCORED = Layout(kind="ivf-pq", lists=10_826, effort=676, rescore=10)
ROWS = 7_325_000  # of a shard
FILES = ("shards-g1.yaml", "placement.yaml", "gateway.yaml")


@dataclass(frozen=True)
class Manifests:
    """Everything that was written."""

    directory: Path

    @property
    def objects(self) -> list[dict[str, Any]]:
        texts = [path.read_text() for path in sorted(self.directory.glob("*.yaml"))]
        return [found for text in texts for found in yaml.safe_load_all(text)]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        return found

    def placement(self, tmp_path: Path) -> Placement:
        """What a gateway reads in the mounted ConfigMap."""
        ((name, text),) = self.of("ConfigMap")[0]["data"].items()
        (tmp_path / name).write_text(text)
        return read_placement(tmp_path / name)


Write = Callable[..., Manifests]


def describe(directory: Path, layout: Layout = IVF, name: str = "g1") -> Path:
    """A generation of four shards, as far as its sizes go."""
    generation = Generation(
        index="passages",
        name=name,
        dim=384,
        metric="inner_product",
        layout=layout,
        shards=4,
        rows=4 * ROWS,
        space="all-MiniLM-L6-v2",
        created_at="2026-01-01T00:00:00+00:00",
    )
    write_generation(directory, generation)
    for shard in range(generation.shards):
        write_segment_record(shard_directory(directory, shard), ROWS, ())
    return directory


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Carries out `manifests`, for pods that hold two shards unless more memory is given."""

    def write(*options: object, memory: str | None = None, **described: Any) -> Manifests:
        generation = describe(tmp_path / "generation", **described)
        arguments = ["manifests", "--generation", generation, "--output", tmp_path / "k8s"]
        room = memory or ("12GB" if "--writable" in options else "8GB")
        words = [*arguments, "--memory", room, *options]
        write_manifests(parse_arguments([*map(str, words)]))
        return Manifests(tmp_path / "k8s")

    return write


def pod_spec(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def containers(manifests: Manifests) -> Iterator[dict[str, Any]]:
    """All containers of all pods."""
    for workload in (*manifests.of("StatefulSet"), *manifests.of("Deployment")):
        spec = pod_spec(workload)
        yield from (*spec.get("initContainers", ()), *spec["containers"])


def node_of(stateful_set: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The container of a node and what `python -m serving.index` makes of its arguments."""
    (container,) = pod_spec(stateful_set)["containers"]
    return container, parse_arguments(container["args"])


def needed_mib(*, shards: int, read_only: bool, layout: Layout = IVF) -> int:
    """What `plan` says that a node needs, with a tenth kept free."""
    size = Size(rows=ROWS, dim=384, metric="inner_product", usable_bytes=0, read_only=read_only)
    node = node_need(shard_need(layout, size, ROWS), shards)
    return math.ceil(max(node.serving_bytes, node.compacting_bytes) / 0.9 / MIB)


def limit_mib(container: dict[str, Any]) -> int:
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    return int(resources["limits"]["memory"].removesuffix("Mi"))


def test_the_committed_example_is_what_the_command_writes(write: Write) -> None:
    written = write()
    assert {path.name for path in EXAMPLE.iterdir()} == {*FILES}
    for name in FILES:
        assert (written.directory / name).read_text() == (EXAMPLE / name).read_text(), name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", [(), ("--writable",)], ids=["read", "write"])
def test_kubernetes_schemas_know_every_field(
    write: Write, version: str, options: tuple[str, ...]
) -> None:
    for found in write(*options).objects:
        kubernetes_validate.validate(found, version, strict=True)


def test_each_group_of_shards_is_a_stateful_set_with_a_pod_per_replica(write: Write) -> None:
    sets = write("--replicas", 3).of("StatefulSet")
    assert [one["metadata"]["name"] for one in sets] == ["passages-g1-0", "passages-g1-1"]
    assert [one["spec"]["replicas"] for one in sets] == [3, 3]
    assert [shards_of(node_of(one)[1].shards) for one in sets] == [(0, 2), (1, 3)]


def test_the_placement_names_every_pod_of_the_stateful_set_that_holds_a_shard(
    write: Write, tmp_path: Path
) -> None:
    manifests = write("--namespace", "search")
    placement = manifests.placement(tmp_path)
    assert (placement.index, placement.generation) == ("passages", "g1")
    expected: dict[int, tuple[str, ...]] = {}
    for one in manifests.of("StatefulSet"):
        name, spec = one["metadata"]["name"], one["spec"]
        service = manifests.one("Service", spec["serviceName"])
        (port,) = service["spec"]["ports"]
        where = f"{spec['serviceName']}.{service['metadata']['namespace']}.svc:{port['port']}"
        urls = tuple(f"{name}-{ordinal}.{where}" for ordinal in range(spec["replicas"]))
        expected |= dict.fromkeys(shards_of(node_of(one)[1].shards), urls)
    assert placement.replicas == tuple(expected[shard] for shard in range(4))


def test_the_headless_service_selects_the_pods_and_names_them_before_they_are_ready(
    write: Write,
) -> None:
    manifests = write()
    service = manifests.one("Service", "passages-g1")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    for one in manifests.of("StatefulSet"):
        assert service["selector"].items() <= one["spec"]["template"]["metadata"]["labels"].items()


def test_a_node_is_told_what_its_pod_has(write: Write) -> None:
    manifests = write()
    for one in manifests.of("StatefulSet"):
        container, options = node_of(one)
        assert bytes_of(options.memory) == limit_mib(container) * MIB
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert (options.grpc_port, options.http_port) == (ports["grpc"], ports["http"])
        assert options.host == "0.0.0.0"
        assert container["readinessProbe"]["httpGet"] == {
            "path": "/v2/health/ready",
            "port": "http",
        }
        mounted = {mount["mountPath"]: mount.get("readOnly") for mount in container["volumeMounts"]}
        assert mounted == {"/index": True, "/state": None, "/tmp": None, "/dev/shm": None}
        assert options.generation == Path("/index/generations/g1")
        assert options.directory == Path("/state")


@pytest.mark.parametrize("options", [(), ("--writable",)], ids=["read", "write"])
def test_a_pod_may_take_what_the_planner_says(write: Write, options: tuple[str, ...]) -> None:
    sets = write(*options, memory="64GB").of("StatefulSet")
    assert len(sets) == 1
    (container,) = pod_spec(sets[0])["containers"]
    assert limit_mib(container) == needed_mib(shards=4, read_only=not options)


def test_the_node_accepts_the_shards_that_its_pod_is_given(write: Write, tmp_path: Path) -> None:
    for one in write().of("StatefulSet"):
        _, options = node_of(one)
        order = NodeOrder(
            generation=tmp_path / "generation",
            shards=shards_of(options.shards),
            directory=tmp_path / "node",
            memory_bytes=bytes_of(options.memory),
        )
        assert [mount.shard for mount in mounts_of(order)] == [*order.shards]


def test_what_each_search_reads_of_the_disk_gets_room_as_far_as_there_is_any(write: Write) -> None:
    needed = needed_mib(shards=4, read_only=True, layout=RESCORED)
    for memory, expected in (
        ("1TB", needed + math.ceil(4 * ROWS * 1536 / 0.9 / MIB)),
        ("8GiB", 8192),
    ):
        (one,) = write(memory=memory, layout=RESCORED).of("StatefulSet")
        assert abs(limit_mib(node_of(one)[0]) - expected) <= 1
    assert needed < 8192


def test_a_shard_that_no_pod_has_room_for_is_refused_with_how_much(write: Write) -> None:
    words = r"a pod with one shard of g1 needs 3,\d+ MiB and may take 1,907: it is 1,\d+ MiB over"
    with pytest.raises(DoesNotFitError, match=words):
        write(memory="2GB")


def test_replicas_stand_on_different_machines_and_are_evicted_one_by_one(write: Write) -> None:
    manifests = write()
    for one in manifests.of("StatefulSet"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        affinity = pod_spec(one)["affinity"]["podAntiAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        budget = manifests.one("PodDisruptionBudget", one["metadata"]["name"])["spec"]
        assert budget["maxUnavailable"] == 1
        for selected in (term["labelSelector"], budget["selector"], one["spec"]["selector"]):
            assert selected["matchLabels"] == labels


def test_only_gateways_reach_shards_and_only_at_their_grpc_port(write: Write) -> None:
    manifests = write()
    policy = manifests.one("NetworkPolicy", "passages-g1")["spec"]
    (rule,) = policy["ingress"]
    (source,) = rule["from"]
    gateway = manifests.one("Deployment", "passages-gateway")["spec"]["template"]
    assert source["podSelector"]["matchLabels"] == gateway["metadata"]["labels"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8001}]
    assert policy["egress"] == []
    for one in manifests.of("StatefulSet"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()


def test_nothing_but_the_gateway_is_reached_in_its_pod(write: Write) -> None:
    policy = write().one("NetworkPolicy", "passages-gateway")["spec"]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8080}]}]


def test_every_container_is_confined_and_limited(write: Write) -> None:
    for container in containers(write()):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert limit_mib(container) > 0
        assert container["resources"]["limits"]["cpu"].isdigit()


def test_every_pod_is_without_rights_and_without_variables_of_services(write: Write) -> None:
    manifests = write()
    for one in (*manifests.of("StatefulSet"), *manifests.of("Deployment")):
        spec = pod_spec(one)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        volumes = {volume["name"] for volume in spec["volumes"]}
        used = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
        assert used <= volumes


def test_a_node_has_time_to_finish_what_it_accepted(write: Write) -> None:
    for one in write().of("StatefulSet"):
        assert pod_spec(one)["terminationGracePeriodSeconds"] > STOP_GRACE_S + KEEPER_MARGIN_S


def test_the_gateway_watches_the_config_map_and_asks_the_encoder_beside_it(write: Write) -> None:
    manifests = write()
    spec = pod_spec(manifests.one("Deployment", "passages-gateway"))
    gateway, encoder = spec["containers"]
    assert gateway["args"][:3] == ["python", "-m", "serving"]
    options = parse_gateway_arguments(gateway["args"][3:])
    (config_map,) = manifests.of("ConfigMap")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounted = {mount["mountPath"]: mount for mount in gateway["volumeMounts"]}
    placement = mounted[str(options.index.parent)]
    assert "subPath" not in placement  # a single file would not follow changes
    assert volumes[placement["name"]]["configMap"]["name"] == config_map["metadata"]["name"]
    assert options.index.name in config_map["data"]
    assert options.triton_url == "127.0.0.1:8001"
    assert str(options.repository) in mounted
    assert "args" not in encoder  # as its image runs it
    (port,) = gateway["ports"]
    assert port["containerPort"] == options.port
    assert options.writable_index is False


def test_the_encoder_is_started_only_on_what_the_trusted_key_signed(write: Write) -> None:
    (verify,) = pod_spec(write().one("Deployment", "passages-gateway"))["initContainers"]
    assert verify["args"][:3] == ["python", "-m", "serving.verify"]
    options = parse_verify_arguments(verify["args"][3:])
    mounted = {mount["mountPath"] for mount in verify["volumeMounts"]}
    assert {str(options.repository), str(options.trusted_key.parent)} <= mounted


def test_writes_are_taken_only_where_each_pod_keeps_them(write: Write) -> None:
    manifests = write("--writable", memory="24GB")
    for one in manifests.of("StatefulSet"):
        (state,) = one["spec"]["volumeClaimTemplates"]
        assert state["metadata"]["name"] == "state"
        assert state["spec"]["accessModes"] == ["ReadWriteOnce"]
        assert "state" not in {volume["name"] for volume in pod_spec(one)["volumes"]}
    gateway = pod_spec(manifests.one("Deployment", "passages-gateway"))["containers"][0]
    assert parse_gateway_arguments(gateway["args"][3:]).writable_index is True


def test_generations_stand_side_by_side_and_gateways_stay(write: Write) -> None:
    before = {found["metadata"]["name"] for found in write().of("StatefulSet")}
    gateway = (write().directory / "gateway.yaml").read_text()
    both = write(name="g2")
    assert {path.name for path in both.directory.iterdir()} == {*FILES, "shards-g2.yaml"}
    after = {found["metadata"]["name"] for found in both.of("StatefulSet")} - before
    assert after == {"passages-g2-0", "passages-g2-1"}
    assert (both.directory / "gateway.yaml").read_text() == gateway


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--name", "Passages"), "'Passages-placement' is no name in Kubernetes"),
        (("--name", "p" * 52), "takes up to 52 lower-case letters"),
        (("--namespace", "a.b"), "'a.b' is no name in Kubernetes"),
        (("--replicas", 0), "--replicas is 0: give 1 or more"),
        (("--gateways", -1), "--gateways is -1"),
        (("--cpus", 0), "--cpus is 0"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_before_anything_is_written(
    write: Write, tmp_path: Path, options: tuple[object, ...], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        write(*options)
    assert not (tmp_path / "k8s").exists()


def test_a_generation_whose_name_no_label_takes_is_refused(write: Write) -> None:
    with pytest.raises(SettingsError, match=r"'passages-g1\.1-0' is no name in Kubernetes"):
        write(memory="64GB", name="g1.1")


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generation = describe(tmp_path / "generation")
    words = [
        "manifests",
        "--generation",
        generation,
        "--output",
        tmp_path / "k8s",
        "--memory",
        "8GB",
    ]
    assert main([*map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "passages-g1-0: shards 0, 2 in 2 pods of 6," in said
    assert f"kubectl apply -f {tmp_path / 'k8s/shards-g1.yaml'}" in said
