import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from loadtest.bench.triton import (
    Counts,
    copy_with_parameters,
    copy_with_triton_defaults,
    copy_without_batching,
    without_dynamic_batching,
)
from models.manifest import Manifest

CONFIG = """
name: "search-encoder"
backend: "python"
max_batch_size: 64
input { name: "text" data_type: TYPE_STRING dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 200 preferred_batch_size: 32 }
"""


def parse(config: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(config, model_config_pb2.ModelConfig())


def files(repository: Path) -> dict[str, bytes]:
    paths = (path for path in repository.rglob("*") if path.is_file())
    return {path.relative_to(repository).as_posix(): path.read_bytes() for path in paths}


def test_an_edited_configuration_differs_in_dynamic_batching_alone():
    expected = parse(CONFIG)
    expected.ClearField("dynamic_batching")
    assert parse(without_dynamic_batching(CONFIG)) == expected


def test_a_configuration_without_dynamic_batching_stays_what_it_is():
    once = without_dynamic_batching(CONFIG)
    assert without_dynamic_batching(once) == once


def test_a_copied_repository_differs_in_its_configuration_alone(tmp_path: Path):
    version = tmp_path / "packaged" / "search-encoder" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"weights")
    (tmp_path / "packaged" / "manifest.json").write_text("{}")
    (tmp_path / "packaged" / "search-encoder" / "config.pbtxt").write_text(CONFIG)
    before = files(tmp_path / "packaged")

    copy_without_batching(tmp_path / "packaged", tmp_path / "copy", "search-encoder")

    expected = before | {"search-encoder/config.pbtxt": without_dynamic_batching(CONFIG).encode()}
    assert files(tmp_path / "copy") == expected
    assert files(tmp_path / "packaged") == before


def test_byte_code_beside_the_model_is_not_copied(tmp_path: Path):
    cache = tmp_path / "packaged" / "search-encoder" / "1" / "__pycache__"
    cache.mkdir(parents=True)
    (cache / "model.cpython-311.pyc").write_bytes(b"code")
    (tmp_path / "packaged" / "search-encoder" / "config.pbtxt").write_text(CONFIG)

    copy_without_batching(tmp_path / "packaged", tmp_path / "copy", "search-encoder")

    assert list(files(tmp_path / "copy")) == ["search-encoder/config.pbtxt"]


@pytest.fixture
def packaged(tmp_path: Path, manifest: Manifest) -> Path:
    """A repository of which only what is edited matters."""
    model = tmp_path / "packaged" / manifest.name
    (model / "1").mkdir(parents=True)
    config = parse(CONFIG)
    for size in (1, 8, 64):
        config.model_warmup.add(name=f"batch-{size}", batch_size=size)
    (model / "config.pbtxt").write_text(text_format.MessageToString(config))
    (model / "1/encoder.json").write_text(
        '{"workers": 0, "token_budget": 1024, "output": "embedding"}'
    )
    return tmp_path / "packaged"


def test_a_copy_with_other_parameters_has_them_where_triton_and_the_encoder_read_them(
    packaged: Path, tmp_path: Path, manifest: Manifest
):
    parameters = {
        "max_batch_size": 16,
        "max_queue_delay_us": 500,
        "instances": 2,
        "workers": 1,
        "token_budget": 512,
    }
    copy_with_parameters(packaged, tmp_path / "copy", manifest, parameters)
    model = tmp_path / "copy" / manifest.name
    config = parse((model / "config.pbtxt").read_text())
    settings = json.loads((model / "1/encoder.json").read_text())
    assert (config.max_batch_size, config.instance_group[0].count) == (16, 2)
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    assert settings == {"workers": 1, "token_budget": 512, "output": "embedding"}


def test_tritons_defaults_batch_four_at_most_and_say_nothing_of_instances(
    packaged: Path, tmp_path: Path, manifest: Manifest
):
    copy_with_triton_defaults(packaged, tmp_path / "copy", manifest)
    config = parse((tmp_path / "copy" / manifest.name / "config.pbtxt").read_text())
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.ListFields()
    assert not config.instance_group
    assert [sample.batch_size for sample in config.model_warmup] == [1]


def test_counts_since_an_earlier_moment_leave_out_what_was_before():
    before = Counts(inferences=1_000, executions=1_000)
    after = Counts(inferences=1_400, executions=1_050)
    assert (after - before).mean_batch == 8.0


def test_a_model_that_did_not_run_has_no_batches():
    assert Counts(inferences=5, executions=5) - Counts(5, 5) == Counts(0, 0)
    assert Counts(0, 0).mean_batch == 0.0
