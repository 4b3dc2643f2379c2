import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from models.manifest import Evidence, Interval, LengthSpeed, VectorFigures
from models.prices import find_price, load_prices
from optimize.outcome import Outcome, VariantReport
from optimize.report import (
    print_outcome,
    render_markdown,
    render_page,
    write_reports,
)
from optimize.tasks.classify import ClassFigures
from optimize.waterfall import waterfall

REASONS = {
    "int8": ["ndcg@10 loss 0.10%: the recipe allows 1.00%", "4.25x as fast at batch 1"],
    "fp32": ["too slow: 0.80x the baseline's speed at batch 1, the recipe asks for 1.1x"],
}


QUALITY = Interval(value=0.8765, low=0.871, high=0.882)
METRICS = ("ndcg@10", "recall@1", "recall@10", "mrr@10")


def with_details(evidence: Evidence) -> Evidence:
    """The same evidence with a segment, a timed length and a footprint."""
    (first, *_) = evidence.speed
    return evidence.model_copy(
        update={
            "segments": {"up to 8 words": dict.fromkeys(METRICS, QUALITY)},
            "lengths": [LengthSpeed(**first.model_dump(), tokens=tokens) for tokens in (16, 64)],
            "memory_bytes": 150 * 2**20,
        }
    )


@pytest.fixture
def outcome(make_evidence: Callable[..., Evidence]) -> Outcome:
    rows = [("pytorch", "baseline", 1.0), ("fp32", "rejected", 0.8), ("int8", "accepted", 4.25)]
    variants = [
        VariantReport(
            name=name,
            evidence=with_details(make_evidence({1: speedup, 32: 2 * speedup}, 100 * speedup)),
            verdict=verdict,
            reasons=REASONS.get(name, []),
            notes=["two operators stay in FP32"] if name == "int8" else [],
            opset=None if name == "pytorch" else 17,
        )
        for name, verdict, speedup in rows
    ]
    price = find_price(load_prices(), "aws-c7i.large")
    evidence = {variant.name: variant.evidence for variant in variants}
    return Outcome(
        name="search-encoder",
        task="embed",
        target="cpu",
        primary="ndcg@10",
        repository="build/repository",
        repository_changed=True,
        digest="0" * 64,
        chosen="int8",
        baseline="pytorch",
        variants=variants,
        unmade={"qdq": "3 calibration texts: qdq variants need 32"},
        stored_vectors=[
            VectorFigures(
                stored_as="binary",
                bytes_per_vector=48,
                quality=dict.fromkeys(METRICS, QUALITY),
                rescored=40,
                rescored_with="int8",
            )
        ],
        price=price,
        usd_per_million={"pytorch": 0.25, "fp32": 0.3, "int8": 0.06},
        waterfall=waterfall(evidence, "pytorch", "int8", None, price),
        tuned=None,
        frozen={"TF-IDF + logistic regression": 0.7912},
        data_summary="7,119 held-out questions over 5,506 passages",
        data_provenance="BoolQ; CC BY-SA 3.0",
        hardware={"cpu": "Fast CPU", "cores": "2", "memory": "24 GiB", "gpu": "none"},
        tool_versions={"onnxruntime": "1.31.1"},
    )


@pytest.fixture
def classifier(outcome: Outcome) -> Outcome:
    """A run with two classes, of which one is rare and never guessed."""
    common = ClassFigures(label="DESC", texts=120, enough=True, precision=0.75, recall=0.5, f1=0.6)
    rare = ClassFigures(label="ABBR", texts=4, enough=False, precision=None, recall=0.0, f1=0.0)
    variants = [
        variant.model_copy(update={"classes": [common, rare]}) for variant in outcome.variants
    ]
    return outcome.model_copy(update={"variants": variants})


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
    assert names.count("svg") == 5
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
    assert (
        "Measured on Fast CPU, 2 cores, 24 GiB, no GPU; onnxruntime 1.31.1; ONNX opset 17." in text
    )
    assert "int8 is packaged in build/repository" in text


def test_the_page_shows_what_each_step_costs_and_how_vectors_may_be_stored(outcome: Outcome):
    page = render_page(outcome).replace("</td>", "</td> ")
    text = " ".join(Tags(page).text.split())
    assert "pytorch, one request at a time 80 0.310" in text  # 12.5 ms at $0.08925 an hour
    assert "int8, batches of 32 425 0.058" in text
    assert "binary 48 best 40 by int8 0.8765 [0.871, 0.882]" in text
    assert "up to 8 words 0.8765 [0.871, 0.882]" in text
    assert "int8: two operators stay in FP32" in text


def test_the_page_shows_every_class_and_marks_those_with_too_few_texts(classifier: Outcome):
    page = render_page(classifier).replace("</td>", "</td> ").replace("</th>", "</th> ")
    text = " ".join(Tags(page).text.split())
    assert "class texts pytorch: precision / recall / F1 int8: precision / recall / F1" in text
    assert "DESC 120 0.75 / 0.50 / 0.60 0.75 / 0.50 / 0.60" in text
    assert "ABBR 4, too few to judge – / 0.00 / 0.00 – / 0.00 / 0.00" in text


def test_a_task_without_classes_has_no_table_of_them(outcome: Outcome):
    assert "By class" not in render_page(outcome)


def test_a_variant_that_cannot_be_made_is_refused_with_its_reason_everywhere(outcome: Outcome):
    reason = "it cannot be made: 3 calibration texts: qdq variants need 32"
    stream = io.StringIO()
    print_outcome(outcome, Console(file=stream, width=200))
    assert f"qdq: {reason}" in stream.getvalue()
    assert f"- qdq: {reason}" in render_markdown(outcome).splitlines()
    assert f"qdq rejected: {reason}" in Tags(render_page(outcome)).text


def test_how_a_refused_variant_was_made_is_told_too(outcome: Outcome):
    refused = outcome.variants[1].model_copy(update={"notes": ["made for ONNX Runtime 1"]})
    page = render_page(outcome.model_copy(update={"variants": [*outcome.variants, refused]}))
    assert "fp32: made for ONNX Runtime 1" in Tags(page).text


def test_a_run_without_timings_has_a_page_without_costs(outcome: Outcome):
    untimed = [
        variant.model_copy(
            update={"evidence": variant.evidence.model_copy(update={"speed": [], "lengths": []})}
        )
        for variant in outcome.variants
    ]
    page = render_page(
        outcome.model_copy(update={"variants": untimed, "usd_per_million": {}, "waterfall": []})
    )
    assert "From demo to production" not in page
    assert page.count("<svg") == 1


def test_a_graph_that_brings_its_own_opset_is_named_with_it(outcome: Outcome):
    *others, last = outcome.variants
    mixed = outcome.model_copy(
        update={"variants": [*others, last.model_copy(update={"opset": 14})]}
    )
    assert "; fp32: ONNX opset 17; int8: ONNX opset 14." in render_markdown(mixed)


def test_memory_that_was_not_measured_is_no_number(outcome: Outcome):
    unmeasured = [
        variant.model_copy(
            update={"evidence": variant.evidence.model_copy(update={"memory_bytes": None})}
        )
        for variant in outcome.variants
    ]
    table = render_markdown(outcome.model_copy(update={"variants": unmeasured}))
    assert "| 23 MB | – |" in table
    assert "MiB |" not in table


def test_the_page_says_when_nothing_passed(nothing_passed: Outcome):
    text = Tags(render_page(nothing_passed)).text
    assert "No variant passed the gate: nothing was packaged." in text
    assert "is packaged in" not in text


def test_names_and_reasons_cannot_bring_tags_into_the_page(outcome: Outcome):
    spoiled = VariantReport(
        name="<script>alert(1)</script>",
        evidence=outcome.variants[0].evidence,
        verdict="rejected <img src=x>",
        reasons=["<iframe>"],
        notes=[],
    )
    page = render_page(
        outcome.model_copy(
            update={
                "variants": [spoiled],
                "chosen": spoiled.name,
                "baseline": spoiled.name,
                "name": "<b>",
                "usd_per_million": {spoiled.name: 1.0},
            }
        )
    )
    assert not {"script", "img", "iframe"} & {name for name, _ in Tags(page).found}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_markdown_table_has_the_numbers_of_every_variant(outcome: Outcome):
    lines = render_markdown(outcome).splitlines()
    assert lines[0] == "# search-encoder: int8"
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    headings, _, *rows = table
    assert headings[6:8] == [f"batch {n}: p50 / p99 ms (speed-up)" for n in (1, 32)]
    assert {len(row) for row in table} == {len(headings)}
    assert rows[2] == [
        "int8",
        "accepted",
        "0.8765 [0.871, 0.882]",
        "0.876",
        "0.876",
        "0.876",
        "12.5 / 31.5 (4.25x)",
        "12.5 / 31.5 (8.50x)",
        "23 MB",
        "150 MiB",
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
