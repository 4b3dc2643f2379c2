import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.bench.rates import Held
from loadtest.bench.tune_report import (
    CASES,
    Round,
    Searched,
    TuneBenchReport,
    generator_limited,
    lines_of,
    make_report,
    table_of,
    write_report,
)
from models.manifest import Manifest

RATES = {"tuned": 600.0, "triton": 300.0, "recipe": 500.0, "grid": 400.0, "shuffled": 600.0}


def a_round(slowdown: float = 1.0, **rates: float) -> Round:
    """What every case held in a round in which the machine was this much slower."""
    return {
        case: Held(
            rate_per_s=(RATES | rates)[case] / slowdown,
            p99_ms=45.0,
            generator_limited=False,
            windows=[],
        )
        for case in CASES
    }


def a_report(manifest: Manifest, rounds: list[Round]) -> TuneBenchReport:
    searched = Searched(trials=9, seconds=240.0, verdict="better", parameters={"instances": 2})
    return make_report(
        manifest,
        rounds,
        max_p99_ms=50.0,
        minutes=4.0,
        window_s=3.0,
        configurations=500,
        searched={"tuned": searched},
        load_before=0.1,
    )


def test_ratios_are_those_of_each_round_whatever_slowed_the_machine():
    compared = [
        line for line in lines_of([a_round(s) for s in (1.0, 3.0, 2.0)]) if line.unit == "×"
    ]
    assert [round(line.value.median, 3) for line in compared] == [2.0, 1.2, 1.5, 1.0]
    assert all(line.value.high - line.value.low < 1e-9 for line in compared)


def test_the_search_must_beat_tritons_defaults_and_the_grid():
    required = {line.label: line.met for line in lines_of([a_round(triton=700.0)]) if line.at_least}
    assert required == {
        "the search / Triton's defaults": False,
        "the search / a grid in nested loops": True,
    }


def test_what_held_nothing_has_no_ratio_but_its_line():
    lines = lines_of([a_round(grid=0.0), a_round()])
    assert not any(line.unit == "×" and "nested" in line.label for line in lines)
    assert [line.value.low for line in lines if line.label == CASES["grid"]] == [0.0]


def test_no_round_shows_nothing():
    with pytest.raises(ValueError, match="no median"):
        lines_of([])


def test_cases_in_which_the_generator_was_the_limit_are_named():
    limited = a_round()
    limited["grid"] = limited["grid"].model_copy(update={"generator_limited": True})
    assert generator_limited([a_round(), limited]) == [CASES["grid"]]
    assert generator_limited([a_round()]) == []


def test_the_written_report_says_what_each_search_did(tmp_path: Path, manifest: Manifest):
    write_report(a_report(manifest, [a_round()]), tmp_path / "tune.json")
    written = json.loads((tmp_path / "tune.json").read_bytes())
    assert written["searched"]["tuned"]["trials"] == 9
    assert written["rounds"][0]["grid"]["rate_per_s"] == 400.0
    assert written["versions"]["optuna"]
    assert written["machine"]["cores"]


def test_the_table_says_in_words_what_is_shown(manifest: Manifest):
    console = Console(width=90, record=True)
    console.print(table_of(a_report(manifest, [a_round(grid=900.0)])))
    text = console.export_text()
    assert "at least 1: shown" in text
    assert "at least 1: not shown" in text
    assert all(label in text for label in CASES.values())
