"""Which operators to leave in FP32 so that a quantized graph keeps its outputs: a pure search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Score = Callable[[Sequence[str]], float]  # the likeness of the outputs without these operators


@dataclass(frozen=True)
class Spared:
    """What to leave in FP32 whatever the search finds: so many operators, in an order found before if any."""

    count: int = 0
    ranked: tuple[str, ...] = ()


NOTHING = Spared()


@dataclass(frozen=True)
class Excluded:
    """The operators left in FP32, at most `at_most` of them, and what that gained. `ranked` holds every one,
    the most sensitive first; nothing where none had to be left out.
    """

    operators: list[str]
    ranked: list[str]
    before: float
    after: float
    limit: float
    at_most: int

    @property
    def words(self) -> str:
        """The same in a sentence."""
        if not self.operators:
            return f"every product quantized: mean cosine {self.before:.4f} to FP32"
        held = "" if self.after >= self.limit else f", still below {self.limit:g}"
        many = len(self.operators) == self.at_most
        bound = ", the most that may be (quantize.max_excluded)" if many else ""
        return (
            f"{len(self.operators)} of the most sensitive products left in FP32{bound} "
            f"({', '.join(self.operators)}): mean cosine {self.before:.4f} -> {self.after:.4f}{held}"
        )


def exclude_until_held(
    operators: Sequence[str], score: Score, limit: float, at_most: int, spared: Spared = NOTHING
) -> Excluded:
    """Leave out the operators that cost most, one more at a time, until `score` reaches `limit`.

    What an operator costs is what leaving out it alone gains; the ranking is made once. At least those
    `spared` and at most `at_most` are left out, whether that holds the limit or not.
    """
    before = score([])
    if (before >= limit and spared.count == 0) or at_most == 0:
        return Excluded([], list(spared.ranked), before, before, limit, at_most)
    ranked = list(spared.ranked) or rank(operators, score)
    left_out, after = ranked[: spared.count], before
    for count in range(max(1, spared.count), at_most + 1):
        left_out = ranked[:count]
        after = score(left_out)
        if after >= limit:
            break
    return Excluded(left_out, ranked, before, after, limit, at_most)


def rank(operators: Sequence[str], score: Score) -> list[str]:
    """The operators, first the one without which the outputs are most alike."""
    gains = {operator: score([operator]) for operator in operators}
    return sorted(operators, key=lambda operator: -gains[operator])
