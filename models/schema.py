"""`python -m models.schema`: write manifest.schema.json, the manifest's contract for other languages."""

import json
from pathlib import Path

from models.files import write_atomically
from models.manifest import Manifest

SCHEMA_PATH = Path(__file__).with_name("manifest.schema.json")


def manifest_schema() -> bytes:
    """The JSON Schema (2020-12) of a written manifest.json."""
    schema = Manifest.model_json_schema(mode="serialization")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | schema, indent=2).encode() + b"\n"


if __name__ == "__main__":
    write_atomically(SCHEMA_PATH, manifest_schema())
