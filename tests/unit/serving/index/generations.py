"""Records of generations, for tests that need no files of them."""

from typing import Any

from serving.index.generation import Generation
from serving.index.layout import Layout

DESCRIBED = Generation(
    index="demo",
    name="g1",
    dim=8,
    metric="l2",
    layout=Layout(kind="flat"),
    shards=2,
    rows=10,
    space="encoder",
    created_at="2026-01-01T00:00:00+00:00",
)


def described(**others: Any) -> Generation:
    """A small generation with some values of its own."""
    return Generation(**(dict(DESCRIBED) | others))  # checked, so that no name is misspelt
