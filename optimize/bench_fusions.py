"""Which of ONNX Runtime's transformer fusions pay on this CPU, timed side by side:

    python -m optimize.bench_fusions model.onnx tokenizer.json

An exported FP32 graph, and dynamic INT8 of it: each as it is, with the fusions of -fused variants, with all.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from onnxruntime.transformers.fusion_options import FusionOptions

from models.hardware import hardware_facts
from models.triton.text_encoder.encoder import EncoderSettings
from optimize.data.folder import read_lines
from optimize.opening import open_variant
from optimize.quantize import detect_isa, fuse, quantize_int8
from optimize.quantize.fuse import what_pays
from optimize.speed import measure_speed
from optimize.tools import tool_versions

PLAIN = "as exported"
FUSIONS = {"attention and embeddings": what_pays(), "all": FusionOptions("bert")}
SETTINGS = EncoderSettings(
    max_tokens=256, token_budget=1024, workers=0, providers=("CPUExecutionProvider",)
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time all forms and print their speed against the graph as it was exported."""
    options = build_parser().parse_args(arguments)
    texts = [row["question"] for row in read_lines(options.data, "questions")]
    with tempfile.TemporaryDirectory() as folder:
        forms = make_forms(options.graph, Path(folder))
        found = {
            precision: times(graphs, options.tokenizer, texts, options.batch_sizes, options.rounds)
            for precision, graphs in forms.items()
        }
    report = {"hardware": hardware_facts(), "tools": tool_versions(), "speedups": found}
    print(json.dumps(report, indent=2))
    return 0


def make_forms(graph: Path, folder: Path) -> dict[str, dict[str, Path]]:
    """The graphs by precision and by what is fused in them."""
    plain = {PLAIN: graph}
    for name, fusions in FUSIONS.items():
        place = folder / name
        place.mkdir()
        fuse(graph, place, fusions)
        plain[name] = place / "model.onnx"
    small = {}
    for name, path in plain.items():
        place = folder / f"int8 {name}"
        place.mkdir()
        quantize_int8(path, detect_isa(), True, place)
        small[name] = place / "model.onnx"
    return {"fp32": plain, "int8": small}


def times(
    graphs: dict[str, Path],
    tokenizer: Path,
    texts: list[str],
    batch_sizes: Sequence[int],
    rounds: int,
) -> dict[str, list[dict[str, float]]]:
    """The speed of each form relative to the plain one, with its interval over rounds."""
    encoders = {name: open_variant(path, tokenizer, SETTINGS) for name, path in graphs.items()}
    speeds = measure_speed(encoders, PLAIN, texts, batch_sizes, rounds)
    return {
        name: [{"batch_size": s.batch_size, **s.speedup.model_dump()} for s in speeds[name]]
        for name in FUSIONS
    }


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m optimize.bench_fusions", description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--data", type=Path, default=Path("models/data/boolq"))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=40)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
