"""`make bench-index`: the sharded index on the real stack, part by part, as one JSON report.

    exact       sharded flat search against one FAISS index, id by id; recall of IVF+SQ8
    tenth       45 GB of vectors on nodes of 16 GB, at a tenth, under the kernel's memory limit
    speed       searches per second and p50 against FAISS in one process
    growth      latency and memory against rows and shards
    swap        three switches of generations under load
    compaction  p99 while shards compact
    hedge       p99 with a replica that is slow now and then

Exit status: 0 everything required was shown; 1 it was not, or it could not be measured.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.bench.index import exact, growth, hedge, speed, swap, tenth
from loadtest.bench.index.glosses import write_glosses
from loadtest.bench.index.report import findings, print_findings
from loadtest.bench.index.stack import Bench, bench_of, build
from loadtest.bench.index.vectors import Vectors, open_vectors, real_vectors, write_copies
from loadtest.errors import LoadtestError
from models.files import write_atomically
from models.hardware import hardware_facts
from models.manifest import ManifestError

PARTS = ("exact", "tenth", "speed", "growth", "swap", "compaction", "hedge")
DOWNLOADS = Path("build/downloads/wordnet")


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and return the exit status."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    try:
        report = run(options, console)
    except (LoadtestError, ManifestError) as error:
        console.print(f"[red]error[/red] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the parts that were done are kept")
        return 130
    found = findings(report)
    print_findings(found, console)
    console.print(f"every figure: {options.output}")
    return 1 if any(line.met is False for line in found) else 0


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure the parts asked for; those measured before stay in the report."""
    report: dict[str, Any] = (
        json.loads(options.output.read_text()) if options.output.is_file() else {}
    )
    texts = options.texts or options.work / "glosses.jsonl"
    if options.texts is None:
        write_glosses(texts, DOWNLOADS)
    console.print("the vectors of the texts: built once, through the encoder of documents")
    encoded = ("--texts", str(texts), "--encoder", str(options.documents), "--layout", "flat")
    generation = build(options.work / "glosses", "vectors", *encoded)
    real = real_vectors(generation)
    with bench_of(options.repository, options.work) as bench:
        for part, measure in parts_of(bench, generation, real, console).items():
            if part in options.parts:
                console.print(f"[bold]{part}[/bold]")
                report[part] = {
                    "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "hardware": hardware_facts(),
                    "found": measure(),
                }
                write_atomically(options.output, json.dumps(report, indent=2).encode() + b"\n")
    return report


def parts_of(
    bench: Bench, generation: Path, real: Vectors, console: Console
) -> dict[str, Callable[[], Any]]:
    """How each part is measured, as JSON."""
    rows = generation / "shard-0000/rows.npy"

    def many(count: int) -> Path:
        return bench.work / f"vectors-{count}.npy"

    def all_vectors() -> tuple[Path, Vectors]:
        write_copies(real, tenth.ROWS, many(tenth.ROWS))
        return many(tenth.ROWS), open_vectors(many(tenth.ROWS))

    return {
        "exact": lambda: exact.measure(bench, rows, real).model_dump(),
        "tenth": lambda: tenth.measure(bench, *all_vectors()).model_dump(),
        "speed": lambda: speed.measure(bench, *all_vectors()).model_dump(),
        "growth": lambda: [
            point.model_dump() for point in growth.measure(bench, real, many, console.print)
        ],
        "swap": lambda: swap.measure_swap(bench, rows, real).model_dump(),
        "compaction": lambda: swap.measure_compaction(bench, rows, real).model_dump(),
        "hedge": lambda: hedge.measure(bench, real).model_dump(),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("parts", nargs="*", default=list(PARTS), metavar="part", help="default: all")
    add("--repository", type=Path, default=Path("build/repository"))
    add("--documents", type=Path, default=Path("build/documents"), help="encoder of documents")
    add("--texts", type=Path, help="JSON lines of id and text (default: WordNet's glosses)")
    add("--work", type=Path, default=Path("build/bench/index"), help="indexes, logs; about 40 GB")
    add("--output", type=Path, default=Path("build/bench/index.json"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
