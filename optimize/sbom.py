"""What a packaged model is made of, for machines (CycloneDX) and for people (LICENCES.md).

Both are the same bytes for the same bill: they carry no time and no random number, since package steps are
content-addressed. CycloneDX 1.6: https://cyclonedx.org/docs/1.6/json/.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Literal

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

from models.manifest import Source
from optimize.errors import EvidenceError

SBOM_NAME = "sbom.cdx.json"
LICENCES_NAME = "LICENCES.md"
UNKNOWN = "unknown"

# What the served code imports and what runs it; the image is the base of docker/triton.Dockerfile.
PACKAGES = {
    "cpu": ("onnxruntime", "tokenizers", "numpy", "nvidia-pytriton"),
    "gpu": ("onnxruntime-gpu", "tokenizers", "numpy"),
}
TRITON_IMAGE = ("nvcr.io", "nvidia", "tritonserver", "26.09-py3")

# How packages spell their licence, where it is not SPDX's own identifier.
SPDX = {
    "MIT License": "MIT",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
}


@dataclass(frozen=True)
class DataSet:
    """Data that the model was measured on or made with. `files`: name -> sha256 of its lines."""

    name: str
    origin: str
    licence: str
    package: str | None = None
    package_sha256: str | None = None
    path: str | None = None
    cut: str | None = None
    files: Mapping[str, str] | None = None

    @property
    def words(self) -> str:
        """What it was used for, where it is from and its licence, in a line."""
        inside = " ".join(part for part in (self.package, self.path) if part)
        return f"{self.name}: {'; '.join(filter(None, (self.origin, inside, self.licence)))}"


@dataclass(frozen=True)
class Package:
    """Software that the served model runs on. What this machine does not know of it is None."""

    purl: PackageURL
    licence: str | None


@dataclass(frozen=True)
class Bill:
    """Everything a packaged model is made of. `weights`: path in the repository -> sha256."""

    name: str
    version: int
    weights: Mapping[str, str]
    source: Source
    data_sets: Sequence[DataSet]
    packages: Sequence[Package]


def write_bill(bill: Bill, repository: Path) -> None:
    """Write sbom.cdx.json and LICENCES.md at the top of a repository."""
    (repository / SBOM_NAME).write_bytes(sbom_of(bill))
    (repository / LICENCES_NAME).write_bytes(licences_of(bill))


def read_data_set(folder: Path, name: str) -> DataSet:
    """A data folder as its PROVENANCE.json describes it; without one, origin and licence are unknown.

    Raises EvidenceError when the file cannot be read.
    """
    path = folder / "PROVENANCE.json"
    if not path.is_file():
        return DataSet(name, origin=UNKNOWN, licence=UNKNOWN)
    try:
        stored = json.loads(path.read_text())
        files = {part: file["sha256_of_lines"] for part, file in stored.get("files", {}).items()}
        optional = {key: stored.get(key) for key in ("package", "package_sha256", "path", "cut")}
        return DataSet(name, stored["origin"], stored["licence"], files=files, **optional)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(
            f"{path} cannot be read ({type(error).__name__}: {error}): give it the fields origin and "
            "licence, or remove it"
        ) from error


def runtime_packages(target: Literal["cpu", "gpu"]) -> list[Package]:
    """What a repository for this target runs on, as installed here; `gpu` adds the Triton image."""
    found = [installed_package(name) for name in PACKAGES[target]]
    if target == "gpu":
        registry, namespace, name, tag = TRITON_IMAGE
        purl = PackageURL("docker", namespace, name, tag, {"repository_url": registry})
        found.append(Package(purl, "BSD-3-Clause"))
    return found


def installed_package(name: str) -> Package:
    """A Python package with its version and licence where it is installed."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return Package(PackageURL("pypi", name=name), None)
    classifiers = [line for line in about.get_all("Classifier") or () if line.startswith("License")]
    stated = [
        about["License-Expression"],
        about["License"] if len(about["License"] or "") < 50 else None,  # else it is the whole text
        *(line.rsplit(" :: ", 1)[-1] for line in classifiers),
    ]
    return Package(
        PackageURL("pypi", name=name, version=about["Version"]), next(filter(None, stated), None)
    )


def sbom_of(bill: Bill) -> bytes:
    """The bill of materials as CycloneDX 1.6 JSON."""
    model = model_component(bill)
    parts = [
        *(data_component(f"data/{i}", data) for i, data in enumerate(bill.data_sets)),
        *(package_component(package) for package in bill.packages),
    ]
    bom = Bom(components=parts)
    bom.metadata.component = model
    bom.register_dependency(model, parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"], document["serialNumber"]
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, digest).urn
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def model_component(bill: Bill) -> Component:
    """The model, its weight files inside it, and the weights that it descends from."""
    origin = Component(
        name=bill.source.reference,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="source",
        hashes=sha256(bill.source.weights_sha256),
        licenses=licences(bill.source.licence),
        properties=properties({"kind": bill.source.kind}),
    )
    weights = [
        Component(name=path, type=ComponentType.FILE, bom_ref=path, hashes=sha256(digest))
        for path, digest in bill.weights.items()
    ]
    return Component(
        name=bill.name,
        version=str(bill.version),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model/{bill.name}",
        licenses=licences(bill.source.licence),
        components=weights,
        pedigree=Pedigree(ancestors=[origin]),
    )


def data_component(reference: str, data: DataSet) -> Component:
    """A data set, with how it was cut as properties."""
    facts = {
        "package": data.package,
        "package-sha256": data.package_sha256,
        "path": data.path,
        "cut": data.cut,
    }
    lines = {f"sha256-of-lines:{name}": digest for name, digest in (data.files or {}).items()}
    return Component(
        name=data.name,
        type=ComponentType.DATA,
        bom_ref=reference,
        description=data.origin,
        licenses=licences(data.licence),
        properties=properties(facts | lines),
    )


def package_component(package: Package) -> Component:
    """A package or an image, by its purl."""
    container = package.purl.type == "docker"
    return Component(
        name=package.purl.name,
        version=package.purl.version,
        type=ComponentType.CONTAINER if container else ComponentType.LIBRARY,
        bom_ref=package.purl.to_string(),
        purl=package.purl,
        licenses=licences(package.licence),
    )


def licences(stated: str | None) -> list[License]:
    """The licence by its SPDX identifier where there is one, else by the words that were given."""
    if stated is None or stated == UNKNOWN:
        return []
    spellings = (stated, SPDX.get(stated, stated), stated.replace(" ", "-"))
    known = (spelling for spelling in spellings if is_supported_id(spelling))
    return [LicenseFactory().make_from_string(next(known, stated))]


def sha256(digest: str | None) -> list[HashType]:
    """A digest as CycloneDX has it; none where it is not known."""
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else []


def properties(facts: Mapping[str, str | None]) -> list[Property]:
    """What CycloneDX has no field for, in a namespace of our own."""
    return [Property(name=f"farshore:{k}", value=v) for k, v in facts.items() if v is not None]


def licences_of(bill: Bill) -> bytes:
    """Licences and provenance of weights, data and software as Markdown."""
    source = bill.source
    sections = [
        f"# Licences and provenance of {bill.name}, version {bill.version}",
        f"The same for machines: `{SBOM_NAME}`. Hashes are sha256.",
        "## Weights",
        table(
            ("what", "licence", "from", "hash"),
            [("the source's weights", source.licence, source.reference, source.weights_sha256)]
            + [
                (f"`{path}`", source.licence, "made from them", d)
                for path, d in bill.weights.items()
            ],
        ),
        "## Data",
        "It was used to measure and to make the model and is not part of this repository.",
        table(
            ("data set", "licence", "origin", "package", "how it was cut"),
            [(d.name, d.licence, d.origin, d.package, d.cut) for d in bill.data_sets],
        ),
        "## Software that it runs on",
        table(
            ("package", "version", "licence"),
            [(p.purl.name, p.purl.version, p.licence) for p in bill.packages],
        ),
    ]
    return "\n\n".join(sections).encode() + b"\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    """A Markdown table; what is not known is said to be."""
    cells = [[(cell or UNKNOWN).replace("|", "\\|") for cell in row] for row in rows]
    lines = [list(header), ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
