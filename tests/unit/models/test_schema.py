"""models/manifest.schema.json: the contract for readers in other languages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from models.manifest import Manifest
from models.schema import SCHEMA_PATH, manifest_schema


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads(SCHEMA_PATH.read_bytes())


def validate(document: object, schema: Any) -> None:
    jsonschema.Draft202012Validator(schema).validate(document)


def test_the_schema_on_disk_is_that_of_the_manifest():
    assert SCHEMA_PATH.read_bytes() == manifest_schema(), "run `python -m models.schema`"


def test_the_schema_is_one(schema: Any):
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_field_is_described(schema: Any):
    assert list(undescribed(schema)) == []


def undescribed(schema: Any) -> Iterator[str]:
    """The fields of all records that have no description of their own."""
    for name, record in {"Manifest": schema, **schema["$defs"]}.items():
        for field, about in record["properties"].items():
            if not about.get("description"):
                yield f"{name}.{field}"


def test_a_manifest_as_it_is_written_is_valid(plain_manifest: Manifest, schema: Any):
    validate(json.loads(plain_manifest.model_dump_json()), schema)


def test_the_manifest_of_a_packaged_repository_is_valid(packaged_repository: Path, schema: Any):
    validate(json.loads((packaged_repository / "manifest.json").read_bytes()), schema)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 1},
        {"task": "translate"},
        {"files": ["model.onnx"]},
        {"surprise": True},
        {"evidence": {"quality": {}}},
    ],
)
def test_another_document_is_not_valid(
    plain_manifest: Manifest, schema: Any, changes: dict[str, object]
):
    document = json.loads(plain_manifest.model_dump_json()) | changes
    with pytest.raises(jsonschema.ValidationError):
        validate(document, schema)


def test_a_document_that_lacks_a_field_is_not_valid(plain_manifest: Manifest, schema: Any):
    for field in plain_manifest.model_fields_set:
        document = json.loads(plain_manifest.model_dump_json())
        del document[field]
        with pytest.raises(jsonschema.ValidationError, match=field):
            validate(document, schema)
