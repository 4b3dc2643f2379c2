"""Activation ranges for static INT8, from what a graph computes on calibration texts.

ONNX Runtime's own calibrators keep every activation in memory, want them all of one shape and count
padding; here activations pass by in two rounds, the second only where the method needs histograms.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from tokenizers import Encoding

from models.triton.text_encoder.encoder import EncoderSettings, open_session
from models.triton.text_encoder.tokens import Item, open_tokenizer, padded_inputs
from optimize.sections import Calibration

BATCH = 8
BINS = 2048
LEVELS = 128  # of each sign, that the entropy method compares a histogram with
FLOOR = 1e-6  # of a probability that the divergence divides by

Feed = Mapping[str, npt.NDArray[np.int64]]
Range = tuple[float, float]
Counts = npt.NDArray[np.float64]
Edges = npt.NDArray[np.float64]


def calibration_feeds(
    graph: Path, tokenizer: Path, texts: Sequence[Item], settings: EncoderSettings
) -> list[Feed]:
    """Batches of similar length, the inputs of the graph alone."""
    wanted = {node.name for node in open_session(graph, settings).get_inputs()}
    encodings: list[Encoding] = open_tokenizer(tokenizer, settings.max_tokens).encode_batch_fast(
        list(texts)
    )
    encodings.sort(key=len)
    batches = [encodings[start : start + BATCH] for start in range(0, len(encodings), BATCH)]
    return [{n: ids for n, ids in padded_inputs(b).items() if n in wanted} for b in batches]


def ranges_of(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed], calibration: Calibration
) -> dict[str, Range]:
    """The range (low, high) of each named activation that INT8 is to cover; 0 lies within each."""
    session = session_with_outputs(model, names)
    extremes = dict.fromkeys(names, (0.0, 0.0))
    for name, values in activations(session, names, feeds):
        low, high = extremes[name]
        extremes[name] = (min(low, float(values.min())), max(high, float(values.max())))
    if calibration.method == "minmax":
        return extremes
    counts = {name: np.zeros(BINS) for name in names}
    edges = {name: np.linspace(*extremes[name], BINS + 1) for name in names}
    for name, values in activations(session, names, feeds):
        counts[name] += np.histogram(values, edges[name])[0] if np.ptp(edges[name]) else 0
    if calibration.method == "percentile":
        share = calibration.percentile / 100
        return {name: cut_tails(counts[name], edges[name], share) for name in names}
    return {name: least_divergence(counts[name], edges[name]) for name in names}


def session_with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> ort.InferenceSession:
    """The graph with these activations as its outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def activations(
    session: ort.InferenceSession, names: Sequence[str], feeds: Sequence[Feed]
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Each named activation of each feed [tokens, ...], of real tokens only."""
    for feed in feeds:
        mask = feed["attention_mask"].astype(bool) if "attention_mask" in feed else None
        for name, values in zip(names, session.run(list(names), dict(feed)), strict=True):
            padded = mask is not None and values.shape[:2] == mask.shape
            yield name, values[mask] if padded else values


def cut_tails(counts: Counts, edges: Edges, share: float) -> Range:
    """The range that holds this share of the values, as much cut off below as above."""
    tail = (1 - share) / 2
    reached = np.cumsum(counts) / max(1.0, counts.sum())
    first = int(np.searchsorted(reached, tail, side="right"))
    last = int(np.searchsorted(reached, 1 - tail)) + 1
    low, high = edges[min(first, BINS)], edges[min(last, BINS)]
    return min(0.0, float(low)), max(0.0, float(high))


def least_divergence(counts: Counts, edges: Edges) -> Range:
    """The range, symmetric but for the values' own ends, whose 8-bit histogram tells least apart.

    Kullback-Leibler divergence of the clipped histogram from its rounding to `LEVELS` magnitudes
    (Migacz, "8-bit inference with TensorRT", 2017).
    """
    middles = np.abs(edges[:-1] + edges[1:]) / 2
    top = float(np.abs(edges[[0, -1]]).max())
    magnitudes, grid = np.histogram(middles, BINS, range=(0, top or 1.0), weights=counts)
    limits = range(LEVELS, BINS + 1, LEVELS // 8)
    best = min(limits, key=lambda limit: divergence(magnitudes, limit))
    clip = float(grid[best])
    return max(float(edges[0]), -clip), min(float(edges[-1]), clip)


def divergence(magnitudes: Counts, limit: int) -> float:
    """How much is lost by clipping at `limit` bins and rounding what is left to LEVELS levels."""
    kept = magnitudes[:limit].copy()
    clipped = kept.copy()
    clipped[-1] += magnitudes[limit:].sum()
    levels = np.arange(limit) * LEVELS // limit
    filled = kept > 0
    totals = np.bincount(levels, weights=kept, minlength=LEVELS)
    bins = np.maximum(1, np.bincount(levels, weights=filled, minlength=LEVELS))
    rounded = np.where(filled, (totals / bins)[levels], 0)
    p, q = clipped / max(1.0, clipped.sum()), rounded / max(1.0, rounded.sum())
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], FLOOR))).sum())
