from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from serving.errors import PlacementError
from serving.index.generation import write_generation
from serving.index.gpu import GpuUse
from serving.index.operations import OUTPUTS
from serving.index.repository import Mount, check_name, shard_config, write_model
from tests.unit.serving.index.generations import DESCRIBED


@pytest.fixture
def config(tmp_path: Path) -> pb.ModelConfig:
    """Of a shard with 8 components."""
    write_generation(tmp_path, DESCRIBED)
    mount = Mount(generation=tmp_path, shard=1, state=tmp_path / "state", budget_bytes=5, threads=2)
    name = write_model(tmp_path / "models", mount)
    written = (tmp_path / "models" / name / "config.pbtxt").read_text()
    return text_format.Parse(written, pb.ModelConfig())


def test_requests_gather_into_one_instance_without_waiting(config: pb.ModelConfig) -> None:
    assert config.name == "demo-g1-0001"
    assert config.instance_group[0].count == 1
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0


def test_every_output_of_an_operation_is_declared(config: pb.ModelConfig) -> None:
    declared = {output.name for output in config.output}
    assert {name for names in OUTPUTS.values() for name in names} == declared
    assert all(tensor.optional for tensor in config.input)


def test_the_model_is_told_which_shard_it_is(config: pb.ModelConfig, tmp_path: Path) -> None:
    told = {key: value.string_value for key, value in config.parameters.items()}
    assert told == {
        "generation": str(tmp_path),
        "shard": "1",
        "state": str(tmp_path / "state"),
        "budget_bytes": "5",
        "threads": "2",
    }


def test_the_model_is_told_its_gpu_and_stays_an_instance_of_the_cpu(
    config: pb.ModelConfig, tmp_path: Path
) -> None:
    use = GpuUse(device=1, precision="fp16", reserve_bytes=2**30)
    mount = Mount(generation=tmp_path, shard=1, state=tmp_path, budget_bytes=5, gpu=use)
    told = shard_config(config.name, 8, mount)
    assert GpuUse.model_validate_json(told.parameters["gpu"].string_value) == use
    assert told.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU


@pytest.mark.parametrize("name", ["g1", "_", "2026.01", "Wiki_en.v2"])
def test_a_name_is_kept(name: str) -> None:
    assert check_name(name, "the index") == name


@pytest.mark.parametrize("name", ["", ".", "..", ".g1", "a-b", "a/b", "a b", "ä", "a\n"])
def test_a_name_that_could_not_be_parted_or_found_again_is_refused(name: str) -> None:
    with pytest.raises(PlacementError, match="cannot be used"):
        check_name(name, "the index")
