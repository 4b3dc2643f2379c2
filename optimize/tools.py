"""The versions of the tools that decide a graph and its speed."""

import importlib.metadata
import platform

TOOLS = (
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "numpy",
)


def tool_versions() -> dict[str, str]:
    """The versions that decide the exported graph and its speed; those installed."""
    found = {}
    for tool in (*TOOLS, "onnxruntime-gpu"):
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}
