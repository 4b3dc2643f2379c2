"""What the bench must show, against what it found."""

from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Finding(NamedTuple):
    """One line: what was measured, and whether that is enough; None where nothing is asked."""

    part: str
    what: str
    measured: str
    needed: str
    met: bool | None


def findings(report: dict[str, Any]) -> list[Finding]:
    """Lines of the parts that were measured."""
    readers: dict[str, Callable[[Any], list[Finding]]] = {
        "exact": of_exact,
        "tenth": of_tenth,
        "speed": of_speed,
        "growth": of_growth,
        "swap": of_swap,
        "compaction": of_compaction,
        "hedge": of_hedge,
    }
    return [
        line for part in readers if part in report for line in readers[part](report[part]["found"])
    ]


def of_exact(found: dict[str, Any]) -> list[Finding]:
    """Ids, and the recall of the layout."""
    lines = [
        Finding(
            "exact",
            f"queries answered as one index, {one['metric']}, {one['rows']:,} rows",
            f"{one['identical']:,} of {one['queries']:,}",
            "all",
            one["identical"] == one["queries"],
        )
        for one in found["exactness"]
    ]
    chosen = next(r for r in found["recall"] if r["nprobe"] == found["chosen_nprobe"])
    value = chosen["recall_at_10"]
    what = f"recall@10 of IVF+SQ8 at nprobe {chosen['nprobe']}"
    return [*lines, Finding("exact", what, f"{value:.4f}", "0.95", value >= 0.95)]


def of_tenth(found: dict[str, Any]) -> list[Finding]:
    """Memory of every node, and whether answers were right."""
    largest = max(sum(node["resident_bytes"].values()) for node in found["nodes"])
    limited = all(node["limited"] for node in found["nodes"])
    limit = found["limit_bytes"]
    rows = f"{found['rows']:,} rows, {found['vectors_bytes'] / 1e9:.1f} GB of vectors"
    how = "held by the kernel" if limited else "not held: no control groups here"
    return [
        Finding(
            "tenth",
            f"largest RSS of four nodes, {rows}, {how}",
            f"{largest / 1e9:.2f} GB",
            f"{limit / 1e9:.1f} GB",
            largest <= limit and limited,
        ),
        Finding("tenth", "recall@10", f"{found['recall_at_10']:.4f}", "", None),
        Finding(
            "tenth",
            "rows looked up, equal in every component",
            f"{found['lookups_right']} of {found['lookups']}",
            "all",
            found["lookups_right"] == found["lookups"],
        ),
    ]


def of_speed(found: dict[str, Any]) -> list[Finding]:
    """Ratios against FAISS in one process: of the router, and of the gateway in front of it."""
    return [line for layer in ("router", "gateway") for line in of_layer(layer, found[layer])]


def of_layer(name: str, found: dict[str, Any]) -> list[Finding]:
    """Throughput and overhead of one way to ask."""
    ratio, batched, overhead = (
        found[key] for key in ("throughput_ratio", "batched_ratio", "overhead_ms")
    )
    return [
        Finding(
            "speed",
            f"{name}: throughput at 32 callers / FAISS called by 32 threads",
            spread_of(ratio, "×"),
            "0.6 ×",
            ratio["median"] >= 0.6,
        ),
        Finding(
            "speed",
            f"{name}: throughput at 32 callers / FAISS given 32 queries a call",
            spread_of(batched, "×"),
            "",
            None,
        ),
        Finding(
            "speed",
            f"{name}: p50 at one caller, more than FAISS in one process",
            spread_of(overhead, "ms"),
            "3 ms",
            overhead["median"] <= 3,
        ),
    ]


def of_growth(found: list[dict[str, Any]]) -> list[Finding]:
    """A line per point."""
    return [
        Finding(
            "growth",
            f"{point['rows']:,} rows on {point['shards']} shards",
            f"p50 {point['p50_ms']:.1f} ms (FAISS alone {point['faiss_p50_ms']:.1f}), "
            f"p99 {point['p99_ms']:.1f} ms, "
            f"{point['queries_per_s_at_8']:.0f}/s at 8 callers, "
            f"{point['resident_bytes'] / 2**20:,.0f} MiB",
            "",
            None,
        )
        for point in found
    ]


def of_swap(found: dict[str, Any]) -> list[Finding]:
    """Errors and mixed answers."""
    bad = found["errors"] + found["mixed"]
    return [
        Finding(
            "swap",
            f"errors and mixed answers, {found['switches']} switches, {found['queries']:,} queries",
            f"{found['errors']} and {found['mixed']}",
            "0 and 0 in 10,000",
            bad == 0 and found["queries"] >= 10_000,
        )
    ]


def of_compaction(found: dict[str, Any]) -> list[Finding]:
    """p99 while compacting."""
    ratio = found["p99_ratio"]
    return [
        Finding(
            "compaction",
            "p99 while shards compact / idle",
            spread_of(ratio, "×"),
            "2 ×",
            ratio["median"] <= 2,
        )
    ]


def of_hedge(found: dict[str, Any]) -> list[Finding]:
    """p99 with and without, what it costs, and the replica that is always slow."""
    ratio = found["with_hedging"]["p99_ms"] / found["without"]["p99_ms"]
    p99 = f"{found['with_hedging']['p99_ms']:.0f} / {found['without']['p99_ms']:.0f} ms"
    return [
        Finding(
            "hedge",
            f"p99 with hedging / without ({p99})",
            f"{ratio:.2f} ×",
            "0.33 ×",
            ratio <= 1 / 3,
        ),
        Finding(
            "hedge",
            "extra requests",
            f"{found['extra_share']:.1%}",
            "5 %",
            found["extra_share"] <= 0.05,
        ),
        Finding(
            "hedge",
            "requests that an always slow replica still gets",
            f"{found['always_slow_share_asked']:.1%}",
            "ejected: under 10 %",
            found["always_slow_share_asked"] < 0.1,
        ),
    ]


def spread_of(found: dict[str, float], unit: str) -> str:
    """Median and range."""
    return f"{found['median']:.2f} {unit} ({found['low']:.2f} to {found['high']:.2f})"


def print_findings(found: list[Finding], console: Console) -> None:
    """A table of all lines."""
    table = Table("part", "what", "measured", "needed", "shown", title="the sharded index")
    for line in found:
        shown = {True: "yes", False: "[red]no[/red]", None: ""}[line.met]
        table.add_row(line.part, line.what, line.measured, line.needed, shown)
    console.print(table)
