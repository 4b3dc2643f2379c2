import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from models.manifest import Evidence
from optimize.report import (
    Outcome,
    VariantReport,
    print_outcome,
    render_markdown,
    render_page,
    write_reports,
)

REASONS = {
    "int8": ["nDCG@10 loss 0.10%: the recipe allows 1.00%", "4.25x faster at batch 1"],
    "fp32": ["0.80x the baseline's speed at batch 1, the recipe asks for 1.1x"],
}


@pytest.fixture
def outcome(make_evidence: Callable[..., Evidence]) -> Outcome:
    rows = [("pytorch", "baseline", 1.0), ("fp32", "rejected", 0.8), ("int8", "accepted", 4.25)]
    return Outcome(
        name="search-encoder",
        repository="build/repository",
        repository_changed=True,
        digest="0" * 64,
        chosen="int8",
        baseline="pytorch",
        variants=[
            VariantReport(
                name=name,
                evidence=make_evidence({1: speedup, 32: 2 * speedup}),
                verdict=verdict,
                reasons=REASONS.get(name, []),
            )
            for name, verdict, speedup in rows
        ],
        questions=7119,
        passages=5506,
        data_provenance="BoolQ; CC BY-SA 3.0",
        hardware={"cpu": "Fast CPU", "cores": "2", "memory": "24 GiB", "gpu": "none"},
        tool_versions={"onnxruntime": "1.31.1"},
    )


@pytest.fixture
def nothing_passed(outcome: Outcome) -> Outcome:
    return outcome.model_copy(
        update={"chosen": None, "digest": None, "variants": outcome.variants[:2]}
    )


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_from_elsewhere(outcome: Outcome):
    page = render_page(outcome)
    tags = Tags(page)
    names = [name for name, _ in tags.found]
    assert names.count("svg") == 2
    assert names.count("style") >= 1
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(names)
    loads = [
        value
        for _, attributes in tags.found
        for attribute, value in attributes.items()
        if attribute in ("src", "href", "xlink:href", "data", "srcset", "poster")
    ]
    assert all(value.startswith("#") for value in loads)
    assert not re.search(r"@import|url\((?!#)", page)


def test_the_page_shows_every_variant_with_its_numbers_and_reasons(outcome: Outcome):
    text = Tags(render_page(outcome)).text
    for variant in outcome.variants:
        assert variant.name in text
        for reason in variant.reasons:
            assert reason in text
    for number in ("0.8765 [0.871, 0.882]", "12.5 / 31.5 (4.25x)", "23 MB", "7,119", "5,506"):
        assert number in text
    assert "Measured on Fast CPU, 2 cores, 24 GiB, no GPU; onnxruntime 1.31.1." in text
    assert "int8 is packaged in build/repository" in text


def test_the_page_says_when_nothing_passed(nothing_passed: Outcome):
    text = Tags(render_page(nothing_passed)).text
    assert "No variant passed the gate: nothing was packaged." in text
    assert "is packaged in" not in text


def test_names_and_reasons_cannot_bring_tags_into_the_page(outcome: Outcome):
    spoiled = VariantReport(
        name="<script>alert(1)</script>",
        evidence=outcome.variants[0].evidence,
        verdict="<img src=x>",
        reasons=["<iframe>"],
    )
    page = render_page(
        outcome.model_copy(update={"variants": [spoiled], "chosen": spoiled.name, "name": "<b>"})
    )
    assert not {"script", "img", "iframe"} & {name for name, _ in Tags(page).found}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_markdown_table_has_the_numbers_of_every_variant(outcome: Outcome):
    lines = render_markdown(outcome).splitlines()
    assert lines[0] == "# search-encoder: int8"
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    headings, _, *rows = table
    assert headings[4:6] == [f"batch {n}: p50 / p99 ms (speed-up)" for n in (1, 32)]
    assert {len(row) for row in table} == {len(headings)}
    assert rows[2] == [
        "int8",
        "0.8765 [0.871, 0.882]",
        "0.876",
        "0.876",
        "12.5 / 31.5 (4.25x)",
        "12.5 / 31.5 (8.50x)",
        "23 MB",
        "accepted",
    ]
    for name, reasons in REASONS.items():
        assert all(f"- {name}: {reason}" in lines for reason in reasons)


def test_the_markdown_says_when_nothing_passed(nothing_passed: Outcome):
    assert render_markdown(nothing_passed).startswith("# search-encoder: no variant passed\n")


def test_the_terminal_shows_every_variant_and_reason(outcome: Outcome):
    stream = io.StringIO()
    print_outcome(outcome, Console(file=stream, width=200))
    shown = stream.getvalue()
    for variant in outcome.variants:
        assert re.search(rf"{variant.name} +0\.8765 .*{variant.verdict}", shown)
        assert all(f"{variant.name}: {reason}" in shown for reason in variant.reasons)


def test_square_brackets_in_a_reason_are_text_in_the_terminal(outcome: Outcome):
    spoiled = outcome.variants[2].model_copy(update={"reasons": ["see [bold]the recipe[/]"]})
    stream = io.StringIO()
    print_outcome(outcome.model_copy(update={"variants": [spoiled]}), Console(file=stream))
    assert "see [bold]the recipe[/]" in stream.getvalue()


def test_the_three_reports_are_written_and_the_json_reads_back(outcome: Outcome, tmp_path: Path):
    write_reports(outcome, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.json",
        "report.md",
        "report.html",
    }
    assert Outcome.model_validate_json((tmp_path / "report.json").read_text()) == outcome
