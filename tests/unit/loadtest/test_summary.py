import json

import pytest

from loadtest.errors import ReportError
from loadtest.report import make_report, write_report
from loadtest.settings import make_settings
from loadtest.summary import compare, join_reports, write_summary
from models.manifest import write_manifest


@pytest.fixture
def loadtest_report(tmp_path, manifest, result):
    settings = make_settings(
        url="http://127.0.0.1:8080", model=manifest.name, rate_per_s=100, duration_s=10
    )
    write_report(make_report(manifest, settings, result, None), tmp_path / "loadtest")
    return tmp_path / "loadtest" / "report.json"


def write_optimize_report(path, digest):
    path.write_text(json.dumps({"digest": digest}))
    return path


def test_reports_about_the_same_bytes_make_one_page(
    repository, loadtest_report, manifest, tmp_path
):
    optimize = write_optimize_report(tmp_path / "optimize.json", manifest.digest)
    write_summary(
        *join_reports(repository, loadtest_report, optimize), optimize, tmp_path / "i.html"
    )
    page = (tmp_path / "i.html").read_text()
    assert "../optimize/report.html" in page
    assert "../loadtest/report.html" in page
    assert "× 2.00" in page


def test_a_missing_optimizer_report_leaves_out_its_link(repository, loadtest_report, tmp_path):
    missing = tmp_path / "none.json"
    write_summary(*join_reports(repository, loadtest_report, missing), missing, tmp_path / "i.html")
    assert "../optimize/report.html" not in (tmp_path / "i.html").read_text()


def test_a_load_test_of_other_bytes_is_refused_with_the_one_to_rerun(
    repository, loadtest_report, manifest, tmp_path
):
    write_manifest(repository, manifest.model_copy(update={"digest": "f" * 64}))
    with pytest.raises(ReportError, match="run `make loadtest` again"):
        join_reports(repository, loadtest_report, tmp_path / "none.json")


def test_an_optimizer_report_of_other_bytes_is_refused_with_the_one_to_rerun(
    repository, loadtest_report, tmp_path
):
    optimize = write_optimize_report(tmp_path / "optimize.json", "f" * 64)
    with pytest.raises(ReportError, match="run `make optimize` again"):
        join_reports(repository, loadtest_report, optimize)


def test_the_comparison_names_speed_quality_and_size(manifest):
    rows = {row.label: row for row in compare(manifest)}
    assert rows["one text"].change == "× 2.00 [1.90, 2.10]"
    assert rows["ndcg@10"].production == "0.800 [0.780, 0.820]"
    assert rows["size"].change == "50%"
