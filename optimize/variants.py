"""The names of variants: what a graph descends from, how its numbers are stored, how it is fused.

    <family>-<precision>[-fused]      fp32, int8, fp16-fused, student-qdq, static

`fp32` alone is the source's own graph; `static` alone is the static student in FP32.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Family = Literal["source", "student", "static"]
# given: a raw ONNX graph as it was brought. int8 scales activations at run time, qdq by calibration.
Precision = Literal["given", "fp32", "fp16", "int8", "qdq"]

STATIC_PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Variant:
    """One way to build the model."""

    family: Family
    precision: Precision
    fused: bool = False

    @property
    def name(self) -> str:
        """How recipes and reports call it."""
        family = [] if self.family == "source" else [self.family]
        precision = [] if (self.family, self.precision) == ("static", "fp32") else [self.precision]
        return "-".join([*family, *precision, *(["fused"] if self.fused else [])])


def parse_variant(name: str) -> Variant:
    """The variant of a name. Raises ValueError saying which names there are."""
    parts = name.split("-")
    fused = parts[-1] == "fused"
    parts = parts[:-1] if fused else parts
    family: Family = "source"
    if parts and parts[0] in ("student", "static"):
        family = "student" if parts[0] == "student" else "static"
        parts = parts[1:]
    precision = parts[0] if parts else "fp32" if family == "static" else ""
    if len(parts) > 1 or precision not in get_args(Precision):
        raise ValueError(explain(name))
    variant = Variant(family, precision, fused)  # type: ignore[arg-type]  # checked above
    impossible = (
        family == "static" and (fused or precision not in STATIC_PRECISIONS),
        family != "source" and precision == "given",
        fused and precision == "qdq",  # ONNX Runtime cannot calibrate its fused attention
        variant.name != name,
    )
    if any(impossible):
        raise ValueError(explain(name))
    return variant


def explain(name: str) -> str:
    """What a variant's name may be."""
    return (
        f"no variant is called {name!r}: use fp32, fp16, int8, qdq or given (a raw ONNX graph), "
        "student- before them for the layer-dropped student, -fused after them (not after qdq) for ONNX "
        "Runtime's transformer fusions; static or static-int8 for the static student"
    )
