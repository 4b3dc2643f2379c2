import re

import pytest

from loadtest.cost import cost_of
from loadtest.errors import ReportError
from loadtest.report import figures, make_report, read_report, render_html, warnings, write_report
from loadtest.results import OK, Recorder, Sample, summarise
from loadtest.settings import make_settings
from models.prices import find_price, load_prices


@pytest.fixture
def report(manifest, result):
    settings = make_settings(
        url="http://127.0.0.1:8080", model=manifest.name, rate_per_s=100, duration_s=10
    )
    price = find_price(load_prices(), "aws-c7i.large")
    return make_report(manifest, settings, result, cost_of(price, 100, 100))


def test_a_report_reads_back_as_it_was_written(report, tmp_path):
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report


def test_a_report_names_the_bytes_the_machine_and_the_versions(report, manifest):
    assert report.model.digest == manifest.digest
    assert int(report.machine["cores"]) > 0
    assert "locust" in report.versions


def test_the_page_is_one_file_that_loads_nothing(report):
    page = render_html(report)
    assert page.count("<svg") == 2
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(http", page)


def test_the_page_escapes_what_it_shows(report):
    model = report.model.model_copy(update={"variant": "<script>alert(1)</script>"})
    assert "<script" not in render_html(report.model_copy(update={"model": model}))


def test_a_saturated_run_says_that_it_says_nothing(report):
    result = report.result.model_copy(update={"saturation_reasons": ["it was late"]})
    page = render_html(report.model_copy(update={"result": result}))
    assert "it was late" in page
    assert "says nothing about the server" in page
    assert warnings(report.result) == []


def test_a_p99_of_too_few_requests_says_how_many_are_missing(report):
    recorder = Recorder()
    for _ in range(100):
        recorder.record(Sample(0.0, 0.0, 0.01, OK))
    few = summarise(recorder, planned=100, duration_s=10, cpu_share=0.1, interrupted=False)
    p99 = dict(figures(report.model_copy(update={"result": few})))["p99"]
    assert "100 of 459" in p99
    assert "at most" in dict(figures(report))["p99"]


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_missing_or_malformed_report_says_what_to_run(tmp_path, content):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ReportError, match="make loadtest"):
        read_report(path)
