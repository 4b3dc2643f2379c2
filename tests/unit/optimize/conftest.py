"""A model small enough to export in a second, real wheels, and what a gate is asked about."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from models.manifest import Evidence, Interval, Source, Speed, Tuning
from models.triton.text_encoder.encoder import TextEncoder, open_session
from optimize import export_tensorrt
from optimize.engine import Profile
from optimize.export_onnx import export_onnx
from optimize.load import SourceModel, open_source
from optimize.proof import Proof
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import DirectorySource, FolderData, TensorRT
from optimize.tune.apply import Tuned
from optimize.tune.objective import Figures

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789?.,-'"
MAX_TOKENS = 64


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with a random BERT that reads letter by letter."""
    directory = tmp_path_factory.mktemp("tiny-model")
    vocabulary = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.5,  # far enough from 0 that different texts get different vectors
    )
    BertModel(config).save_pretrained(directory, safe_serialization=True)
    letter_tokenizer(vocabulary).save(str(directory / "tokenizer.json"))
    return directory


def letter_tokenizer(vocabulary: list[str]) -> Tokenizer:
    """A WordPiece tokenizer that puts [CLS] and [SEP] around the letters of a text."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return tokenizer


@pytest.fixture(scope="session")
def tiny_recipe(small_recipe: Recipe, tiny_model: Path) -> Recipe:
    """The recipe of the tiny model."""
    return small_recipe.model_copy(
        update={
            "source": DirectorySource(kind="directory", directory=tiny_model, licence="none"),
            "max_tokens": MAX_TOKENS,
        }
    )


@pytest.fixture(scope="session")
def tiny_source(tiny_model: Path) -> SourceModel:
    """The tiny model in PyTorch."""
    return open_source(tiny_model, MAX_TOKENS)


@pytest.fixture(scope="session")
def tiny_onnx(tiny_source: SourceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an ONNX graph."""
    path = tmp_path_factory.mktemp("tiny-onnx") / "model.onnx"
    export_onnx(tiny_source, 17, path)
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tiny_recipe: Recipe, tiny_source: SourceModel, tiny_onnx: Path) -> TextEncoder:
    """The tiny model as it is served."""
    settings = encoder_settings(tiny_recipe)
    return TextEncoder(open_session(tiny_onnx, settings), tiny_source.tokenizer, settings)


@pytest.fixture(scope="session")
def served_shapes() -> list[Profile]:
    """Profiles of a TensorRT core for everything that the tiny recipe serves."""
    return [
        {"min": [1, 1], "opt": [16, 16], "max": [64, 32]},
        {"min": [1, 1], "opt": [16, 48], "max": [64, 64]},
    ]


@pytest.fixture(scope="session")
def datacenter_engine(
    tiny_onnx: Path, served_shapes: list[Profile], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An engine of the tiny model with the metadata of one that Triton's tensorrt backend loads.

    The datacenter builder needs its GPU: TensorRT-RTX, which has its interface, stands in for it.
    """
    pytest.importorskip("tensorrt_rtx_bindings")
    folder = tmp_path_factory.mktemp("datacenter") / "engines"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(export_tensorrt.MODULES, "tensorrt", "tensorrt_rtx_bindings")
        patch.setattr(export_tensorrt, "capability_here", lambda: "9.0")
        section = TensorRT(builder="tensorrt")
        export_tensorrt.export_tensorrt(tiny_onnx, section, served_shapes, folder)
    return folder / "sm_9.0.plan"


@pytest.fixture
def make_tuned() -> Callable[[dict[str, int]], Tuned]:
    """What a search of twelve trials found to be best: these serving parameters."""

    def make(parameters: dict[str, int]) -> Tuned:
        reached = Figures(parameters=parameters, rate_per_s=500.0, p99_ms=41.0, memory_bytes=2**28)
        tuning = Tuning(
            parameters=parameters,
            default_parameters={**parameters, "instances": 1},
            max_p99_ms=50.0,
            rate_per_s=reached.rate_per_s,
            p99_ms=41.0,
            default_rate_per_s=400.0,
            memory_bytes=reached.memory_bytes,
            trials=12,
            seconds=200.0,
            hardware={"cpu": "this one"},
        )
        return Tuned(parameters=parameters, tuning=tuning, tried=[reached])

    return make


@pytest.fixture
def model_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's directory to spoil."""
    directory = tmp_path / "model"
    directory.mkdir()
    for path in tiny_model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


@pytest.fixture
def drop_weights(model_copy: Path) -> Callable[[str], None]:
    """Removes the tensors of the copied model whose name begins so."""

    def drop(prefix: str) -> None:
        path = model_copy / "model.safetensors"
        kept = {n: t for n, t in load_file(path).items() if not n.startswith(prefix)}
        save_file(kept, path, metadata={"format": "pt"})

    return drop


@pytest.fixture
def make_wheel() -> Callable[[Path, dict[str, str | bytes]], str]:
    """Writes the wheel of parcel 1.0 with these files; returns its sha256."""

    def make(folder: Path, files: dict[str, str | bytes]) -> str:
        path = folder / "parcel-1.0-py3-none-any.whl"
        about = {
            "parcel-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n",
            "parcel-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "parcel-1.0.dist-info/RECORD": "",
        }
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (files | about).items():
                archive.writestr(name, content)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return make


@pytest.fixture
def make_evidence() -> Callable[..., Evidence]:
    """Evidence of a variant with these speed-ups by batch size."""

    def make(speedups: dict[int, float], texts_per_s: float = 100.0) -> Evidence:
        speeds = [
            Speed(
                batch_size=size,
                p50_ms=12.5,
                p99_ms=31.5,
                throughput_texts_per_s=texts_per_s,
                speedup=Interval(value=speedup, low=speedup, high=speedup),
            )
            for size, speedup in speedups.items()
        ]
        metrics = ("ndcg@10", "recall@1", "recall@10", "mrr@10")
        quality = {name: Interval(value=0.8765, low=0.871, high=0.882) for name in metrics}
        return Evidence(quality=quality, speed=speeds, size_bytes=23_000_000)

    return make


@pytest.fixture
def proof(make_evidence: Callable[..., Evidence]) -> Proof:
    """What a manifest says beside the files."""
    return Proof(
        variant="fp32",
        output_dim=32,
        space="0" * 64,
        source=Source(kind="directory", reference="tiny", weights_sha256="0" * 64, licence="none"),
        evidence=make_evidence({1: 2.0}),
        baseline=make_evidence({1: 1.0}),
        gate=["fp32 accepted"],
        data_provenance=["made up"],
        recipe_sha256="0" * 64,
        hardware={"cpu": "this one"},
        tool_versions={"python": "3"},
    )


@pytest.fixture
def texts(small_recipe: Recipe) -> list[str]:
    """80 real questions of different lengths."""
    from optimize.data.retrieval import read_retrieval

    data = small_recipe.evaluation.data
    assert isinstance(data, FolderData)
    return read_retrieval(data.folder, small_recipe.evaluation).calibration[:80]


@pytest.fixture
def write_json() -> Callable[[Path, object], None]:
    """Writes a value as JSON where the folder may not exist yet."""

    def write(path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    return write
