import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.bench.batching_report import (
    CASES,
    Measured,
    Round,
    lines_of,
    make_report,
    table_of,
    write_report,
)
from loadtest.bench.client import Window
from models.manifest import Manifest

TEXTS_PER_S = {
    "unbatched-32": 300.0,
    "triton-32": 600.0,
    "gateway-32": 480.0,
    "direct-32": 800.0,
    "direct-1": 500.0,
    "triton-1": 250.0,
    "gateway-1": 200.0,
}


def a_round(mean_batch: float = 10.0, slowdown: float = 1.0, **texts_per_s: float) -> Round:
    """A round in which one caller waits for one text at a time."""
    rates = TEXTS_PER_S | {name.replace("_", "-"): rate for name, rate in texts_per_s.items()}
    return {
        name: Measured(
            window=Window(
                texts=100,
                texts_per_s=rate / slowdown,
                p50_ms=1e3 / rate * slowdown,
                p99_ms=2e3 / rate * slowdown,
                cpu_share=0.1,
            ),
            mean_batch=mean_batch,
        )
        for name, rate in rates.items()
    }


def test_every_case_is_used_by_the_lines_and_no_other():
    assert {case.name for case in CASES} == TEXTS_PER_S.keys()
    for name in TEXTS_PER_S:
        changed = a_round(**{name.replace("-", "_"): 123.0})
        assert lines_of([changed]) != lines_of([a_round()])


def test_ratios_are_those_of_each_round_whatever_slowed_the_machine():
    lines = {
        (line.topic, line.label): line.value
        for line in lines_of([a_round(slowdown=slowdown) for slowdown in (1.0, 3.0, 2.0)])
    }
    ratios = [value for (_, label), value in lines.items() if " / " in label]
    assert [round(value.median, 3) for value in ratios] == [2.0, 2.0, 2.5, 1.25, 0.75, 0.6, 0.8]
    assert all(value.high - value.low < 1e-9 for value in ratios)


def test_enough_gain_from_real_batches_is_what_is_required():
    required = [line.met for line in lines_of([a_round()]) if line.at_least is not None]
    assert required == [True, True]


def test_too_small_a_gain_is_not_shown():
    gain, batch, *_ = lines_of([a_round(triton_32=389.0)])
    assert (gain.met, batch.met) == (False, True)


def test_batches_that_are_too_small_are_not_shown():
    gain, batch, *_ = lines_of([a_round(mean_batch=3.9)])
    assert (gain.met, batch.met) == (True, False)


def test_nothing_is_required_of_what_is_merely_stated():
    assert [line.met for line in lines_of([a_round()])].count(None) == len(
        lines_of([a_round()])
    ) - 2


def test_no_round_shows_nothing():
    with pytest.raises(ValueError, match="no median"):
        lines_of([])


def test_the_written_report_names_the_model_and_keeps_every_window(
    tmp_path: Path, manifest: Manifest
):
    rounds = [a_round(), a_round(slowdown=2.0)]
    write_report(make_report(manifest, 4.0, rounds, load_before=0.1), tmp_path / "batching.json")
    written = json.loads((tmp_path / "batching.json").read_bytes())
    assert written["digest"] == manifest.digest
    assert written["rounds"][1]["triton-32"]["window"]["texts_per_s"] == 300.0
    assert written["versions"]["tritonclient"]
    assert written["machine"]["cores"]


def test_the_table_says_in_words_what_is_shown_and_fits_a_terminal(manifest: Manifest):
    report = make_report(manifest, 4.0, [a_round(mean_batch=3.0)], load_before=0.1)
    console = Console(width=74, record=True)
    console.print(table_of(report))
    text = console.export_text()
    assert "at least 1.3: shown" in text
    assert "at least 4: not shown" in text
    assert all(line.label in text for line in report.lines)
