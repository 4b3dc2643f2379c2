"""The contract: what a packaged Triton repository holds and how its files are named and proved.

`optimize` writes a manifest, `serving` and `loadtest` read it. All three import this module, and with it the
others beside it; these import none of them.

    build/repository/
        manifest.json
        model.sig                 (signature.py)
        <model>/config.pbtxt
        <model>/<version>/...
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from models.files import sha256_file, sha256_lines, write_atomically

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "model.sig"

Task = Literal["embed", "classify", "rerank"]

# Tensor names of every packaged model, whatever runs behind them.
TEXT_INPUT = "text"
QUERY_INPUT = "query"  # a reranker's question; `text` is then the passage
EMBEDDING_OUTPUT = "embedding"  # [N, dim] unit vectors
PROBABILITIES_OUTPUT = "probabilities"  # [N, classes], calibrated, in the order of `labels`
SCORE_OUTPUT = "score"  # [N, 1], a logit: larger is more relevant
TOKEN_COUNT_OUTPUT = "token_count"  # [N, 1], of the whole texts before truncation

INPUTS: Mapping[Task, tuple[str, ...]] = {
    "embed": (TEXT_INPUT,),
    "classify": (TEXT_INPUT,),
    "rerank": (QUERY_INPUT, TEXT_INPUT),
}
OUTPUTS: Mapping[Task, str] = {
    "embed": EMBEDDING_OUTPUT,
    "classify": PROBABILITIES_OUTPUT,
    "rerank": SCORE_OUTPUT,
}


class ManifestError(Exception):
    """The repository is missing, malformed or not what its manifest says."""


class Record(BaseModel):
    """A frozen value that refuses fields it does not know. A text below a field describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Interval(Record):
    """A measured value with its bootstrap 95 % confidence interval."""

    value: float
    """As measured."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


class Speed(Record):
    """Latency of one call and throughput at one batch size."""

    batch_size: int
    """Texts in one call."""
    p50_ms: float
    """Median latency of one call, in milliseconds."""
    p99_ms: float
    """99th percentile of the latency of one call, in milliseconds."""
    throughput_texts_per_s: float
    """Texts per second, one call after the other."""
    speedup: Interval
    """Median over rounds of baseline time / this time, both taken in the same round."""


class LengthSpeed(Speed):
    """The same for texts of about one length only."""

    tokens: int
    """About how many tokens each text has."""


class Evidence(Record):
    """What was measured for one variant on held-out data and on the machine named beside it."""

    quality: dict[str, Interval]
    """By metric, over all held-out data."""
    segments: dict[str, dict[str, Interval]] = {}
    """The same for parts of the data, by the words that name them."""
    speed: list[Speed]
    """By batch size; empty when the target's hardware was not there."""
    lengths: list[LengthSpeed] = []
    """By batch size and length of text."""
    size_bytes: int
    """Size of the weights."""
    memory_bytes: int | None = None
    """Resident memory of a fresh process that serves the variant."""
    cpu_s_per_1000: float | None = None
    """Processor time it spends on 1,000 texts, in seconds: a proxy of energy."""


class Source(Record):
    """Where the weights came from."""

    kind: Literal["package", "directory", "onnx", "hub"]
    """What the recipe named: a package, a directory, an ONNX file or a hub's repository."""
    reference: str
    """Which one, with its version."""
    weights_sha256: str
    """sha256 of the weights before anything was done to them."""
    licence: str
    """As the recipe states it."""


class Histogram(Record):
    """How often values fall between edges."""

    edges: list[float]
    """Ascending, one more than there are counts. The outer bins also hold what lies beyond them."""
    counts: list[int]
    """Values from an edge up to the next."""


class ReferenceProfile(Record):
    """What held-out traffic looked like, for drift to be measured against."""

    texts: int
    """How many texts the profile is of."""
    token_lengths: Histogram
    """Tokens of the whole texts, before truncation."""
    embedding_norms: Histogram | None = None
    """Norms of embeddings; absent where all are 1."""
    projections: list[Histogram] = []
    """Embeddings along random directions, one histogram each (models/profile.py)."""
    seed: int = 0
    """What the directions are drawn from."""
    class_priors: dict[str, float] | None = None
    """Share of texts for which each class is the most probable, by label."""
    confidence: Histogram | None = None
    """The largest probability of each text."""
    centroid: list[float] = []
    """Direction of the mean embedding [dim]: random directions alone miss a shift of topic."""
    centroid_cosines: Histogram | None = None
    """Cosines of embeddings to the centroid."""


class VectorFigures(Record):
    """What storing document vectors in fewer bits costs: quality before and after rescoring."""

    stored_as: Literal["fp32", "fp16", "int8", "binary"]
    """Number format of the stored vectors."""
    bytes_per_vector: int
    """What one stored vector takes."""
    quality: dict[str, Interval]
    """By metric, with these vectors and this rescoring."""
    rescored: int | None = None
    """How many of the best candidates are reordered with the FP32 query; absent: none."""
    rescored_with: Literal["fp32", "fp16", "int8", "binary"] | None = None
    """Number format of the vectors that they are reordered by."""


class Tuning(Record):
    """The evidence for the serving parameters that a search chose on a real Triton."""

    parameters: dict[str, int]
    """What was chosen, by name as in the recipe's section `serving`."""
    default_parameters: dict[str, int]
    """What it is compared with."""
    max_p99_ms: float
    """The limit that p99 latency had to hold, in milliseconds."""
    rate_per_s: float
    """Highest rate held within the limit, in texts per second."""
    p99_ms: float
    """p99 latency at that rate, in milliseconds."""
    default_rate_per_s: float
    """The same rate for the default parameters."""
    memory_bytes: int | None
    """Resident memory of the server at that rate."""
    trials: int
    """How many configurations were tried."""
    seconds: float
    """How long the search took."""
    hardware: dict[str, str]
    """What it ran on, in words."""


class Engine(Record):
    """A TensorRT engine and what it may run on."""

    path: str
    """Where it lies in the repository; of one that is not packaged, its file's name."""
    builder: Literal["tensorrt", "tensorrt_rtx"]
    """What built it; only `tensorrt` engines are for Triton's tensorrt backend."""
    builder_version: str
    """An engine opens only in the version that built it."""
    compute_capability: str
    """The GPUs that it runs on, such as 8.9."""
    fp16: bool
    """Whether the weights of the graph that it was built from are FP16; it computes as they do."""
    profiles: list[dict[str, list[int]]]
    """Dynamic shapes: `min`, `opt` and `max` shape [N, T] each."""


class Manifest(Record):
    """Everything a server or a load test must know of a packaged model.

    Two packagings of the same recipe share `digest` although their timings differ.
    """

    schema_version: Literal[2] = 2
    """The version of this contract."""
    name: str
    """The model's name in Triton and in requests."""
    version: int
    """The model's version directory in Triton."""
    task: Task
    """What the model does; it decides the names of inputs and outputs."""
    target: Literal["cpu", "gpu"]
    """The hardware that it was packaged for."""
    variant: str
    """How it was built: <family>-<precision>, such as student-int8."""
    output_dim: int
    """Numbers per text: dimensions of a vector, classes, or 1."""
    labels: list[str] = []
    """Names of the classes, in the order of the probabilities."""
    temperature: float | None = None
    """What logits were divided by to calibrate the probabilities."""
    space: str
    """The vector space: models that share it may query each other's document vectors."""
    encodes: Literal["texts", "queries"] = "texts"
    """`queries` for a student that was measured against its teacher's document vectors only."""
    vectors: Literal["fp32", "fp16", "int8", "binary"] = "fp32"
    """Number format in which embeddings are sent."""
    max_tokens: int
    """Longer texts are truncated."""
    max_batch_size: int
    """Texts in one request to Triton."""
    digest: str
    """Identity of the served bytes: covers `files` and nothing measured."""
    files: dict[str, str]
    """sha256 of every file by relative path, without manifest.json and model.sig."""
    recipe_sha256: str
    """Identity of the recipe."""
    source: Source
    """The weights that it was made from."""
    evidence: Evidence
    """What was measured for this variant."""
    baseline: Evidence
    """The same for the source model."""
    gate: list[str]
    """The verdict on each variant, in words."""
    stored_vectors: list[VectorFigures] = []
    """What storing document vectors in fewer bits costs."""
    profile: ReferenceProfile | None = None
    """What held-out traffic looked like, for drift to be measured against."""
    tuning: Tuning | None = None
    """Why the serving parameters are what they are; absent: not searched for."""
    engines: list[Engine] = []
    """TensorRT engines among the files."""
    opset: int | None = None
    """Version of ONNX's operators in the graph that is served, or that its engine was built from; absent:
    packaged before this was recorded."""
    data_provenance: list[str]
    """Origin and licence of each data set, in words."""
    hardware: dict[str, str]
    """What the measurements ran on, in words."""
    tool_versions: dict[str, str]
    """Versions of the tools that decide the graph and its speed."""
    created_at: str
    """When it was packaged: ISO 8601, UTC."""


def read_manifest(repository: Path) -> Manifest:
    """Read `<repository>/manifest.json`.

    Raises ManifestError when it is missing or not valid; it says what to run.
    """
    path = repository / MANIFEST_NAME
    if not path.is_file():
        raise ManifestError(
            f"no packaged model at {repository}: run `make optimize`, or name the directory that "
            f"holds {MANIFEST_NAME}"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ManifestError(
            f"{path} is not a manifest this version reads ({error.error_count()} problems, first: "
            f"{error.errors()[0]['msg']}): run `make optimize` again"
        ) from error


def write_manifest(repository: Path, manifest: Manifest) -> None:
    """Write `<repository>/manifest.json` whole or not at all."""
    write_atomically(
        repository / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode() + b"\n"
    )


def verify_files(repository: Path, manifest: Manifest) -> None:
    """Check every file of the repository against the manifest.

    Raises ManifestError naming the files that are missing, changed or not declared.
    """
    differences = describe_differences(manifest.files, digest_files(repository))
    if differences or combined_digest(manifest.files) != manifest.digest:
        raise ManifestError(
            f"{repository} is not what its manifest says ({differences or 'digest'}): "
            "restore it or run `make optimize` again"
        )


def describe_differences(declared: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Which files are missing, changed or not declared, from digests by path; empty when none is."""
    kinds = {
        "missing": declared.keys() - found.keys(),
        "changed": {
            path for path in declared.keys() & found.keys() if declared[path] != found[path]
        },
        "not declared": found.keys() - declared.keys(),
    }
    return "; ".join(
        f"{kind}: {', '.join(sorted(paths))}" for kind, paths in kinds.items() if paths
    )


def digest_files(repository: Path) -> dict[str, str]:
    """The sha256 of every file of a repository by relative path, without manifest and signature."""
    own = (repository / MANIFEST_NAME, repository / SIGNATURE_NAME)
    return {
        path.relative_to(repository).as_posix(): sha256_file(path)
        for path in sorted(repository.rglob("*"))
        if path.is_file() and path not in own and "__pycache__" not in path.parts
    }


def combined_digest(files: Mapping[str, str]) -> str:
    """One sha256 over relative paths and their digests, independent of order."""
    return sha256_lines(f"{digest}  {path}" for path, digest in sorted(files.items()))
