"""Make qdq variants again with more of their products in FP32, until the gate's limits of quality hold.

Which products are spared is ranked on calibration texts; only how many is read off the evaluated data
(docs/decisions/0003-exclusion-until-the-gate-holds.md).
"""

from collections.abc import Mapping
from dataclasses import replace

from optimize.gate import keeps_quality
from optimize.measure import Candidates, losses_of, predict
from optimize.quantize.exclusion import Excluded, Spared
from optimize.quantize.static import EXCLUDED
from optimize.steps import Step, Workspace
from optimize.variants import parse_variant


def spare_until_held(
    candidates: Candidates, workspace: Workspace, quality: Mapping[str, Step]
) -> tuple[Candidates, dict[str, Step]]:
    """The candidates and their predictions after that.

    Other variants are left alone, and all of them where the data is too little for any verdict.
    """
    measured = dict(quality)
    if candidates.data.shortage(candidates.recipe.evaluation) is not None:
        return candidates, measured
    for name in candidates.built.variants:
        while (spared := more_to_spare(candidates, measured, name)) is not None:
            candidates = with_spared(candidates, name, spared)
            baseline = measured[candidates.baseline]
            measured[name] = predict(candidates, workspace, name, baseline)
    return candidates, measured


def more_to_spare(candidates: Candidates, quality: Mapping[str, Step], name: str) -> Spared | None:
    """Which products to leave in FP32 next: twice as many; None where it holds or no more may be."""
    if parse_variant(name).precision != "qdq":
        return None
    if keeps_quality(losses_of(candidates, quality, name), candidates.recipe.gate):
        return None
    tried = Excluded(**candidates.built.variants[name].read_json(EXCLUDED))
    count = len(tried.operators)
    if count >= tried.at_most:
        return None
    return Spared(min(max(1, 2 * count), tried.at_most), tuple(tried.ranked))


def with_spared(candidates: Candidates, name: str, spared: Spared) -> Candidates:
    """The candidates with one of the variants made again."""
    built = candidates.built
    again = built.workshop.make(parse_variant(name), spared)
    return replace(candidates, built=replace(built, variants={**built.variants, name: again}))
