"""ONNX Runtime's own transformer fusions: fewer, larger operators. Whether they pay is measured."""

import logging
from pathlib import Path

import onnx
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from optimize.errors import QuantizeError
from optimize.quantize.graph import notes_of, refuse_unusable

RUNTIME_DOMAIN = "com.microsoft"
LARGE = {
    "Attention",
    "EmbedLayerNormalization",
}  # the rest ONNX Runtime fuses when it loads a graph


def fuse(graph: Path, destination: Path, options: FusionOptions | None = None) -> None:
    """Write `destination`/model.onnx with attention and embeddings as one operator each, where found.

    `options` None: only what pays. Raises QuantizeError when nothing of the graph could be fused: the variant
    would be a copy.
    """
    refuse_unusable(graph)
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    # 0 heads and 0 hidden: read off the graph.
    fused = optimize_model(
        str(graph),
        model_type="bert",
        num_heads=0,
        hidden_size=0,
        opt_level=0,
        optimization_options=options or what_pays(),
    )
    path = destination / "model.onnx"
    fused.save_model_to_file(str(path))
    if not (runtime_operators(path) - runtime_operators(graph)) & LARGE:
        path.unlink()
        raise QuantizeError(
            "ONNX Runtime found nothing to fuse in this graph: drop the -fused variants"
        )
    found = fused.get_fused_operator_statistics()
    counted = ", ".join(f"{n} {name}" for name, n in sorted(found.items()) if n)
    notes_of(destination, f"fused: {counted}")


def what_pays() -> FusionOptions:
    """Not the sums before a normalisation or a GELU: on CPUs ONNX Runtime 1.31 takes longer for either
    fused form than for its two parts (docs/decisions/0004-fusions-left-out-on-cpus.md, repeated by
    bench_fusions.py), and GPU providers fuse them when they load the graph.
    """
    options = FusionOptions("bert")
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    options.enable_bias_gelu = False
    return options


def runtime_operators(graph: Path) -> set[str]:
    """The operators that only ONNX Runtime has: other engines cannot take the graph."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    return {node.op_type for node in nodes if node.domain == RUNTIME_DOMAIN}
