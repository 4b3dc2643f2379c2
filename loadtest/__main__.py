"""`python -m loadtest run`: p99, errors, dollars per million; `summary`: from demo to production.

Exit status: 0 measured, 1 could not measure, 2 wrong usage, 3 measured but not valid (the generator
was the limit, not the server), 130 interrupted (the report covers what was measured until then).
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from loadtest.arrivals import ARRIVALS
from loadtest.cost import cost_of
from loadtest.errors import LoadtestError, StackError
from loadtest.generator import measure
from loadtest.live import live_line
from loadtest.queries import load_queries
from loadtest.report import Report, figures, make_report, warnings, write_report
from loadtest.settings import Settings, make_settings
from loadtest.stack import check_model, is_ready, running_stack
from loadtest.summary import compare, headline, join_reports, write_summary
from models.manifest import ManifestError, read_manifest
from models.prices import PricesError, find_price, load_prices

MEASURED, FAILED, NOT_VALID, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parse(arguments)
    # So that a stack started here is stopped on SIGTERM too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    console = Console()
    try:
        status: int = options.command(options, console)
    except (LoadtestError, ManifestError, PricesError) as error:
        console.print(f"[red]error[/red] {error}", highlight=False)
        return FAILED
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED
    return status


def run(options: argparse.Namespace, console: Console) -> int:
    """Send the load, print the figures and write the report."""
    manifest = read_manifest(options.repository)
    price = find_price(load_prices(options.prices), options.instance)
    chosen = {name: getattr(options, name) for name in Settings.model_fields if name in options}
    url = options.url or f"http://127.0.0.1:{options.port}"
    settings = make_settings(**chosen | {"url": url, "model": manifest.name})
    load_queries(settings.queries)  # to fail before a stack is started
    with stack(options, console) as url:
        check_model(url, manifest)
        with live_line(settings, console) as on_sample:
            result = measure(settings, on_sample)
    cost = cost_of(price, result.goodput_per_s, result.planned_rate_per_s)
    report = make_report(manifest, settings, result, cost)
    write_report(report, options.output)
    show(report, options.output, console)
    if result.interrupted:
        return INTERRUPTED
    return NOT_VALID if result.generator_saturated else MEASURED


def summary(options: argparse.Namespace, console: Console) -> int:
    """Join the optimizer's and the load test's figures on one page."""
    manifest, report = join_reports(options.repository, options.loadtest, options.optimize)
    page = options.output / "index.html"
    write_summary(manifest, report, options.optimize, page)
    table = Table("", "demo", "production", "change", box=None)
    for row in compare(manifest):
        table.add_row(row.label, row.demo, row.production, row.change)
    console.print(headline(manifest, report), style="bold", highlight=False)
    console.print(Panel(table))
    for warning in warnings(report.result):
        console.print(f"[red]{warning}[/red]", highlight=False)
    console.print(f"page: {page}")
    return MEASURED


@contextlib.contextmanager
def stack(options: argparse.Namespace, console: Console) -> Iterator[str]:
    """The stack to measure: the one named by --url, else the one on --port, started if need be."""
    if options.url is None:
        log = options.output / "serve.log"
        with running_stack(options.port, options.repository, log, console) as url:
            yield url
    elif is_ready(options.url):
        yield options.url
    else:
        raise StackError(f"{options.url} is not ready: start it, or leave out --url")


def show(report: Report, output: Path, console: Console) -> None:
    """The figures as a table, what limits their worth, and where the page is."""
    table = Table(show_header=False, box=None)
    for label, value in figures(report):
        table.add_row(f"[bold]{label}[/bold]", value)
    console.print(
        Panel(table, title=f"{report.model.name} ({report.model.variant})", title_align="left")
    )
    for warning in warnings(report.result):
        console.print(f"[red]{warning}[/red]", highlight=False)
    console.print(f"page: {output / 'report.html'}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    add_run(commands.add_parser("run", help="send load to a stack on this machine and measure it"))
    add_summary(commands.add_parser("summary", help="one page from demo to production"))
    return parser.parse_args(arguments)


def add_run(parser: argparse.ArgumentParser) -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    add = parser.add_argument
    add("--rate", dest="rate_per_s", type=float, default=50.0, help="planned requests per second")
    add("--duration", dest="duration_s", type=float, default=30.0, help="seconds to measure")
    add(
        "--warmup",
        dest="warmup_s",
        type=float,
        default=defaults["warmup_s"],
        help="seconds to throw away first",
    )
    add(
        "--timeout",
        dest="timeout_s",
        type=float,
        default=defaults["timeout_s"],
        help="longest silence of the server in s",
    )
    add("--arrivals", choices=list(ARRIVALS), default=defaults["arrivals"])
    add("--seed", type=int, default=defaults["seed"], help="the same seed sends the same load")
    add("--queries", type=Path, help="text file, one query per line (default: BoolQ questions)")
    add("--allow-long", action="store_true", help="allow runs of more than an hour")
    add("--instance", default="aws-c7i.large", help="instance type to price")
    add("--prices", type=Path, help="YAML file with your own prices")
    add(
        "--port",
        type=int,
        default=8080,
        help="port of the gateway; started there if nothing answers",
    )
    add("--url", help="gateway that runs already, on this machine only")
    add("--repository", type=Path, default=Path("build/repository"))
    add("--output", type=Path, default=Path("build/loadtest"), help="folder of the report")
    parser.set_defaults(command=run)


def add_summary(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--repository", type=Path, default=Path("build/repository"))
    add("--loadtest", type=Path, default=Path("build/loadtest/report.json"))
    add("--optimize", type=Path, default=Path("build/optimize/report.json"))
    add("--output", type=Path, default=Path("build/demo"), help="folder of the page")
    parser.set_defaults(command=summary)


if __name__ == "__main__":
    sys.exit(main())
