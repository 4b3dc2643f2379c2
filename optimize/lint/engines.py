"""Whether TensorRT engines can be loaded where they lie, and can answer what is asked there."""

from collections.abc import Iterator, Sequence

from optimize.engine import Place, engine_problems, read_engine
from optimize.errors import EngineError
from optimize.lint.findings import Finding, Model


def engine_findings(
    model: Model, token_lengths: Sequence[int], compute_capability: str | None
) -> Iterator[Finding]:
    """All checks of one model's engines. `token_lengths`: what texts are padded to; empty: not known."""
    if model.kind != "tensorrt":
        return
    place = Place("tensorrt", model.config, token_lengths, compute_capability)
    for plan in sorted(model.folder.glob("*/*.plan")):
        file = f"{plan.parent.name}/{plan.name}"
        try:
            found = read_engine(plan)
        except EngineError as error:
            yield model.error(file, error.problem, error.fix)
            continue
        for problem in engine_problems(found, place):
            yield model.error(file, problem.words, problem.fix)
