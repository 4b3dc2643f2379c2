"""FP32 graph -> static INT8 graph (QDQ): activations get their ranges from calibration texts.

A text's vector then no longer depends on the texts beside it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from tokenizers import Encoding

from models.triton.text_encoder.encoder import EncoderSettings, TextEncoder, open_session
from models.triton.text_encoder.tokens import Item, open_tokenizer, padded_inputs
from optimize.errors import QuantizeError
from optimize.quantize.dynamic import Isa, weight_type
from optimize.quantize.exclusion import exclude_until_held
from optimize.quantize.graph import FLOAT, notes_of, quiet, refuse_unusable, weight_matmuls
from optimize.sections import Calibration, Quantize

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
BATCH = 8
WINDOW_TOKENS = 32
SCORED_TEXTS = 48  # that trials are compared on
RANGES = "ranges.json"

Feeds = list[dict[str, np.ndarray[Any, Any]]]


def write_static_int8(
    fp32: Path,
    tokenizer: Path,
    texts: Sequence[Item],
    isa: Isa,
    section: Quantize,
    settings: EncoderSettings,
    destination: Path,
) -> None:
    """The step: model.onnx and notes.json. The operators that cost most quality stay in FP32 until the
    outputs on calibration texts are as near to the FP32 graph's as the recipe asks.

    Raises QuantizeError when there are too few calibration texts or the graph cannot be used.
    """
    refuse_unusable(fp32)
    some = list(texts[: section.calibration.texts])
    if len(some) < section.calibration.min_texts:
        raise QuantizeError(
            f"{len(some)} calibration texts: qdq variants need {section.calibration.min_texts}; add "
            "texts to the data's calibration, or drop these variants"
        )
    feeds = calibration_feeds(fp32, tokenizer, some, section.calibration.method, settings)
    some = some[:SCORED_TEXTS]
    expected = outputs_of(fp32, tokenizer, some, settings)
    path = destination / "model.onnx"

    def score(excluded: Sequence[str]) -> float:
        quantize_graph(fp32, feeds, isa, section, excluded, path)
        return likeness(outputs_of(path, tokenizer, some, settings), expected)

    found = exclude_until_held(
        weight_matmuls(fp32), score, section.min_cosine, section.max_excluded
    )
    score(found.operators)  # the last trial was not necessarily the best
    path.with_name(RANGES).unlink(missing_ok=True)
    notes_of(destination, describe_calibration(section.calibration), found.words)


def quantize_graph(
    fp32: Path, feeds: Feeds, isa: Isa, section: Quantize, excluded: Sequence[str], path: Path
) -> None:
    """Quantize the products with weights, but for the excluded; the embedding table where asked.

    Only inputs of products are quantized: ONNX Runtime then runs them as integer products with FP32
    results, and everything between them (normalisation, softmax, GELU) keeps its precision.
    """
    kinds = ["MatMul", *(["Gather"] if section.embedding_table else [])]
    with quiet():
        quantize_static(
            fp32,
            path,
            Reader(feeds),
            calibration_cache_path=path.with_name(RANGES),  # measured once for all trials
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            nodes_to_exclude=list(excluded),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=weight_type(isa),
            calibrate_method=METHODS[section.calibration.method],
            extra_options=calibration_options(section.calibration)
            | {
                "DefaultTensorType": FLOAT,
                "OpTypesToExcludeOutputQuantization": kinds,
                "MatMulConstBOnly": True,
            },
        )


def calibration_options(calibration: Calibration) -> dict[str, Any]:
    """What the percentile method needs to know."""
    if calibration.method != "percentile":
        return {}
    return {"CalibPercentile": calibration.percentile}


class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime's own interface
    """Hands the feeds to ONNX Runtime's calibrators one after the other."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds: Iterator[dict[str, np.ndarray[Any, Any]]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next feed, or None after the last."""
        return next(self._feeds, None)


def calibration_feeds(
    graph: Path, tokenizer: Path, texts: Sequence[Item], method: str, settings: EncoderSettings
) -> Feeds:
    """Batches of similar length, so that padding does not widen the ranges."""
    wanted = {node.name for node in open_session(graph, settings).get_inputs()}
    if method == "minmax":
        encodings = open_tokenizer(tokenizer, settings.max_tokens).encode_batch_fast(list(texts))
    else:
        encodings = windows_of(tokenizer, texts)
    encodings.sort(key=len)
    batches = [encodings[start : start + BATCH] for start in range(0, len(encodings), BATCH)]
    return [{n: ids for n, ids in padded_inputs(b).items() if n in wanted} for b in batches]


def windows_of(tokenizer: Path, texts: Sequence[Item]) -> list[Encoding]:
    """The texts joined and cut into windows of one length: ONNX Runtime's histograms (entropy and
    percentile) take activations of one shape only.
    """
    joined: list[Item] = []
    for start in range(0, len(texts), 2):
        some = [*texts[start:], *texts]
        words = " ".join(t if isinstance(t, str) else t[1] for t in some[:WINDOW_TOKENS])
        joined.append(words if isinstance(some[0], str) else (some[0][0], words))
    encodings = open_tokenizer(tokenizer, WINDOW_TOKENS).encode_batch_fast(joined)
    whole = [encoding for encoding in encodings if len(encoding) == WINDOW_TOKENS]
    return whole[: len(whole) // BATCH * BATCH] or whole[:1]


def outputs_of(
    graph: Path, tokenizer: Path, texts: Sequence[Item], settings: EncoderSettings
) -> np.ndarray[Any, Any]:
    """What a graph gives for the texts [N, dim]."""
    encoder = TextEncoder(
        open_session(graph, settings), open_tokenizer(tokenizer, settings.max_tokens), settings
    )
    return encoder.encode(texts).outputs


def likeness(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The mean cosine of rows [N, dim]; of single numbers, the correlation over rows."""
    if expected.shape[1] == 1:
        return float(np.corrcoef(found[:, 0], expected[:, 0])[0, 1])
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / lengths).mean())


def describe_calibration(calibration: Calibration) -> str:
    """How the ranges were found, in words."""
    method = calibration.method
    detail = f" ({calibration.percentile:g} %)" if method == "percentile" else ""
    return f"static INT8: activation ranges by {method}{detail} from {calibration.texts} calibration texts"
