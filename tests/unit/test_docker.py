"""The container files agree with each other, with the project and with what they run.

No engine is needed: what an engine alone could show is listed in docs/deploy.md.
"""

import argparse
import ast
import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serving.__main__ import parse_arguments
from serving.index.__main__ import parse_arguments as parse_index_arguments
from serving.triton.command import server_command
from serving.triton.ports import Ports
from serving.verify import parse_arguments as parse_verify_arguments

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))

each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
each_service = pytest.mark.parametrize("service", ["triton", "gateway"])
each_container = pytest.mark.parametrize("service", ["verify", "triton", "gateway"])


def instructions(path: Path) -> list[tuple[str, str]]:
    """(keyword, arguments) of each instruction of a Dockerfile, continuation lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    words = (line.split(maxsplit=1) for line in joined if line.strip())
    return [(keyword, arguments.strip()) for keyword, arguments in words]


def arguments(path: Path, keyword: str) -> list[str]:
    return [value for name, value in instructions(path) if name == keyword]


def command(path: Path) -> list[str]:
    """The program that the image runs."""
    (value,) = arguments(path, "CMD")
    return json.loads(value)


def flag_values(words: list[str]) -> dict[str, str]:
    """{"--name": "value"} of a command whose flags are written --name=value."""
    return dict(word.split("=", maxsplit=1) for word in words[1:])


def gateway_options() -> argparse.Namespace:
    """What `python -m serving` makes of the gateway image's command."""
    return parse_arguments(command(DOCKER / "gateway.Dockerfile")[3:])


def health_url(path: Path) -> str:
    (value,) = arguments(path, "HEALTHCHECK")
    (url,) = re.findall(r"http://[^']+", value)
    return url


def copied(path: Path) -> list[str]:
    """What the image takes from the build context."""
    copies = [value.split() for value in arguments(path, "COPY") if "--from" not in value]
    return [source for *sources, _ in copies for source in sources]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file out: the last pattern to match it or a parent decides."""
    verdict = False
    parents = (PurePosixPath(path), *PurePosixPath(path).parents)
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line and not line.startswith("#")
        if rule and any(matches(parent.parts, line.lstrip("!")) for parent in parents):
            verdict = not line.startswith("!")
    return verdict


def matches(parts: tuple[str, ...], pattern: str) -> bool:
    """Docker's rule: `*` stays within one part of a path, `**/` stands for any parents."""
    wanted = PurePosixPath(pattern).parts
    if wanted[0] == "**":
        wanted, parts = wanted[1:], parts[-len(wanted[1:]) :]
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def compose(name: str = "compose.yaml") -> Any:
    return yaml.safe_load((DOCKER / name).read_text())


def pinned() -> set[str]:
    """The packages that constraints.txt gives a version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}


def triton_packages() -> list[str]:
    """What the Triton image installs, with the build argument at its default."""
    (install,) = [run for run in arguments(DOCKER / "triton.Dockerfile", "RUN") if "pip" in run]
    (default,) = arguments(DOCKER / "triton.Dockerfile", "ARG")
    names = install.split("constraints.txt")[-1]
    return names.replace('"${ONNXRUNTIME}"', default.removeprefix("ONNXRUNTIME=")).split()


def required_by(requirement: Requirement, seen: set[str]) -> Iterator[str]:
    """The distributions that installing a requirement installs, itself included."""
    name = canonicalize_name(requirement.name)
    key = str(requirement)
    if key in seen:
        return
    seen.add(key)
    yield name
    for line in distribution(name).requires or ():
        needed = Requirement(line)
        extras = requirement.extras or {""}
        if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
            yield from required_by(needed, seen)


@each_dockerfile
def test_hadolint_finds_nothing_in_a_dockerfile(path: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([hadolint, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@each_dockerfile
def test_a_base_image_names_the_version_that_it_stands_on(path: Path) -> None:
    for base in arguments(path, "FROM"):
        assert re.search(r":\d+\.\d+", base.split()[0]), f"{base} has no version"


@each_dockerfile
def test_what_an_image_copies_exists_and_reaches_the_build_context(path: Path) -> None:
    for source in copied(path):
        files = [p for p in (ROOT / source, *(ROOT / source).glob("*.py")) if p.is_file()]
        assert files, f"{path.name} copies {source}, which does not exist"
        for file in files:
            assert not ignored(file.relative_to(ROOT).as_posix()), f"{file} is in .dockerignore"


@pytest.mark.parametrize("path", ["build/repository/manifest.json", ".git/x", "models/data/x"])
def test_weights_data_and_history_stay_out_of_the_build_context(path: str) -> None:
    assert ignored(path)


@each_dockerfile
def test_an_image_runs_as_a_user_without_rights(path: Path) -> None:
    user, _, group = arguments(path, "USER")[-1].partition(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-gpu"])
def test_constraints_pin_every_package_of_the_triton_image(runtime: str) -> None:
    assert {runtime, *triton_packages()} <= pinned()


def test_the_triton_image_installs_what_the_python_model_imports() -> None:
    sources = (ROOT / "models/triton/text_encoder").glob("*.py")
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    imported = {
        name.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for name in n.names
    }
    imported |= {
        n.module.split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom) and not n.level
    }
    third_party = imported - sys.stdlib_module_names - {"triton_python_backend_utils"}
    assert third_party == set(triton_packages())


def test_the_gateway_image_installs_neither_torch_nor_a_triton_server() -> None:
    (install,) = [r for r in arguments(DOCKER / "gateway.Dockerfile", "RUN") if "pip install" in r]
    assert install.split()[-1] == "'.[serve]'"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["serve"]
    seen: set[str] = set()
    installed = {name for line in wanted for name in required_by(Requirement(line), seen)}
    assert "fastapi" in installed
    assert installed - {"farshore"} <= pinned()
    assert not installed & {"torch", "nvidia-pytriton", "onnxruntime", "transformers"}


def test_the_index_image_installs_what_a_node_imports() -> None:
    (install,) = [r for r in arguments(DOCKER / "index.Dockerfile", "RUN") if "pip install" in r]
    assert install.split()[-2:] == ["'.[index,triton]'", "faiss-cpu"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["index"], *extras["triton"], "faiss-cpu"]
    seen: set[str] = set()
    installed = {name for line in wanted for name in required_by(Requirement(line), seen)}
    assert installed - {"farshore"} <= pinned()
    assert not installed & {"torch", "fastapi", "ray"}
    modules = ("__main__", "node", "shard", "compactor", "compact", "build_command", "plan_command")
    for module in imported_by(*(f"serving.index.{name}" for name in modules)):
        owners = {canonicalize_name(owner) for owner in packages_distributions().get(module, ())}
        assert not owners or owners & (installed | {"farshore"}), f"{module} is not in the image"


def imported_by(*modules: str) -> set[str]:
    """The packages that importing modules imports, in a process of its own."""

    def loaded(code: str) -> set[str]:
        code += "; import sys; print(*sys.modules)"
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return {name.split(".")[0] for name in result.stdout.split()}

    return loaded(f"import {', '.join(modules)}") - loaded("pass")


def test_the_index_image_is_asked_for_its_health_where_its_nodes_listen() -> None:
    (entrypoint,) = arguments(DOCKER / "index.Dockerfile", "ENTRYPOINT")
    assert json.loads(entrypoint) == ["python", "-m", "serving.index"]
    shown = (DOCKER / "index.Dockerfile").read_text().split("farshore-index:local")[1]
    words = re.sub(r"\\?\n#", " ", shown.partition("\nENTRYPOINT")[0]).split()
    options = parse_index_arguments(words)
    url = health_url(DOCKER / "index.Dockerfile")
    assert url == f"http://127.0.0.1:{options.http_port}/v2/health/ready"
    assert arguments(DOCKER / "index.Dockerfile", "EXPOSE") == [str(options.grpc_port)]


def test_the_gateway_command_is_one_that_serving_accepts() -> None:
    assert command(DOCKER / "gateway.Dockerfile")[:3] == ["python", "-m", "serving"]
    options = gateway_options()
    assert options.host == "0.0.0.0"
    assert options.triton_url == "triton:8001"


def test_the_gateway_listens_where_it_is_published_and_checked() -> None:
    options = gateway_options()
    (published,) = compose()["services"]["gateway"]["ports"]
    assert arguments(DOCKER / "gateway.Dockerfile", "EXPOSE") == [str(options.port)]
    assert published == f"127.0.0.1:${{FARSHORE_PORT:-8080}}:{options.port}"
    assert health_url(DOCKER / "gateway.Dockerfile") == f"http://127.0.0.1:{options.port}/healthz"


def test_triton_listens_where_the_gateway_calls_and_the_health_check_asks() -> None:
    flags = flag_values(command(DOCKER / "triton.Dockerfile"))
    gateway = gateway_options()
    assert gateway.triton_url == f"triton:{flags['--grpc-port']}"
    exposed = {flags["--grpc-port"], flags["--metrics-port"]}
    assert set(arguments(DOCKER / "triton.Dockerfile", "EXPOSE")[0].split()) == exposed
    ready = f"http://{flags['--http-address']}:{flags['--http-port']}/v2/health/ready"
    assert health_url(DOCKER / "triton.Dockerfile") == ready


def test_triton_runs_with_the_flags_of_the_embedded_server() -> None:
    anywhere = Path("/models")
    embedded = server_command(anywhere, anywhere, "", Ports(0, 0, 0), anywhere, "")
    flags, expected = flag_values(command(DOCKER / "triton.Dockerfile")), flag_values(embedded)
    own_build = {
        "--backend-directory",
        "--backend-config",
    }  # the container has its backends in place
    assert flags.keys() == expected.keys() - own_build
    shared = [n for n in flags if not n.endswith(("-port", "-address"))]
    assert {n: flags[n] for n in shared} == {n: expected[n] for n in shared}


@each_service
def test_both_services_read_the_mounted_repository_and_cannot_write_it(service: str) -> None:
    (mount,) = compose()["services"][service]["volumes"]
    gateway = gateway_options()
    assert mount["target"] == str(gateway.repository)
    assert f"--model-repository={mount['target']}" in command(DOCKER / "triton.Dockerfile")
    assert mount["read_only"] is True
    assert mount["source"] == "${FARSHORE_REPOSITORY:-../build/repository}"


def test_triton_is_started_only_on_what_the_trusted_key_signed() -> None:
    services = compose()["services"]
    verify = services["verify"]
    condition = services["triton"]["depends_on"]["verify"]["condition"]
    assert condition == "service_completed_successfully"
    assert verify["command"][:3] == ["python", "-m", "serving.verify"]
    options = parse_verify_arguments(verify["command"][3:])
    repository, key = verify["volumes"]
    assert [repository] == services["triton"]["volumes"]
    assert str(options.repository) == repository["target"]
    assert str(options.trusted_key) == key["target"]
    assert key["source"] == "${FARSHORE_TRUSTED_KEY:-../keys/farshore.pub}"
    assert key["read_only"] is True


def test_the_check_ends_and_reaches_no_network() -> None:
    verify = compose()["services"]["verify"]
    assert verify["restart"] == "no"
    assert verify["network_mode"] == "none"
    assert verify["healthcheck"] == {"disable": True}
    assert "networks" not in verify


@each_container
def test_a_container_is_confined_and_limited(service: str) -> None:
    settings = compose()["services"][service]
    assert (DOCKER / settings["build"]["context"] / settings["build"]["dockerfile"]).is_file()
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["deploy"]["resources"]["limits"]["memory"]
    assert "cpuset" in settings or "cpus" in settings["deploy"]["resources"]["limits"]


@each_service
def test_a_service_is_restarted_and_given_time_to_stop(service: str) -> None:
    settings = compose()["services"][service]
    assert settings["restart"] == "unless-stopped"
    assert settings["stop_grace_period"]


def test_nothing_reaches_triton_but_the_gateway() -> None:
    document = compose()
    assert "ports" not in document["services"]["triton"]
    assert document["services"]["triton"]["networks"] == ["inference"]
    assert document["networks"]["inference"]["internal"] is True
    assert document["services"]["gateway"]["depends_on"]["triton"]["condition"] == "service_healthy"


def test_triton_is_given_time_to_finish_what_it_accepted() -> None:
    flags = flag_values(command(DOCKER / "triton.Dockerfile"))
    grace_s = int(compose()["services"]["triton"]["stop_grace_period"].removesuffix("s"))
    assert int(flags["--exit-timeout-secs"]) < grace_s


def test_the_gpu_override_changes_triton_alone_and_reserves_a_gpu_for_it() -> None:
    services = compose("compose.gpu.yaml")["services"]
    assert list(services) == ["triton"]
    assert services["triton"]["build"]["args"]["ONNXRUNTIME"] in pinned()
    (device,) = services["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def test_the_users_of_the_images_may_read_a_packaged_repository(packaged_repository: Path) -> None:
    for path in (packaged_repository, *packaged_repository.rglob("*")):
        needed = 0o005 if path.is_dir() else 0o004
        assert path.stat().st_mode & needed == needed, f"{path} is closed to other users"


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="needs the docker client with its compose plugin (no engine)",
)
@pytest.mark.parametrize(
    "files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=["cpu", "gpu"]
)
def test_docker_compose_accepts_the_files(files: list[str]) -> None:
    chosen = [argument for name in files for argument in ("--file", str(DOCKER / name))]
    result = subprocess.run(
        ["docker", "compose", *chosen, "config", "--quiet"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
