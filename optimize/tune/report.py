"""What a search found, for a terminal."""

from rich.console import Console
from rich.table import Table

from optimize.tune.run import TuneReport


def print_tuning(report: TuneReport, console: Console) -> None:
    """The Pareto front, what was confirmed in rounds, and the verdict."""
    console.print(front_table(report))
    console.print(confirmed_table(report))
    price = f", ${report.usd_per_million:.3f} per 1M" if report.usd_per_million else ""
    console.print(f"{report.verdict}{price}", markup=False, highlight=False, soft_wrap=True)


def front_table(report: TuneReport) -> Table:
    """What no other trial beats in rate and memory both."""
    table = Table(
        *report.space,
        "rate",
        "p99 ms",
        "MiB",
        title=f"Pareto front of {len(report.trials)} trials, p99 within {report.max_p99_ms:g} ms",
    )
    for one in report.pareto_front:
        values = [str(one.parameters[name]) for name in report.space]
        p99 = "" if one.p99_ms is None else f"{one.p99_ms:.1f}"
        table.add_row(*values, f"{one.rate_per_s:.0f}/s", p99, f"{one.memory_bytes / 2**20:.0f}")
    return table


def confirmed_table(report: TuneReport) -> Table:
    """The default and the best others, measured in turns."""
    table = Table(
        *report.space, "median", "range", "MiB", title="in turns, the recipe's default first"
    )
    for one in report.confirmed:
        values = [str(one.parameters[name]) for name in report.space]
        span = f"{min(one.rates):.0f} to {max(one.rates):.0f}"
        memory = f"{one.memory_bytes / 2**20:.0f}"
        table.add_row(*values, f"{one.median_rate:.0f}/s", span, memory)
    return table
