"""`python -m optimize run RECIPE` and `python -m optimize data`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from optimize.errors import OptimizeError
from optimize.recipe import read_recipe
from optimize.steps import Workspace

console = Console(stderr=False)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused with a reason, 130 stopped by Ctrl-C."""
    options = build_parser().parse_args(arguments)
    try:
        options.command(options)
    except OptimizeError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped: finished steps are kept, run again to resume")
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m optimize", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="recipe -> packaged, measured Triton repository")
    run.add_argument("recipe", type=Path)
    run.add_argument("--repository", type=Path, default=Path("build/repository"))
    run.add_argument("--reports", type=Path, default=Path("build/optimize"))
    run.add_argument("--cache", type=Path, default=Path("build/cache"))
    run.set_defaults(command=run_recipe)
    data = commands.add_parser("data", help="rebuild evaluation, calibration and training texts")
    data.add_argument("--output", type=Path, default=Path("build/data/boolq"))
    data.set_defaults(command=rebuild_data)
    return parser


def run_recipe(options: argparse.Namespace) -> None:
    """Run the pipeline and print what came out."""
    recipe = read_recipe(options.recipe)
    # torch and matplotlib load slowly: only once the recipe is known to be good.
    from optimize.pipeline import optimize
    from optimize.report import print_outcome

    workspace = Workspace(options.cache, announce_step)
    workspace.remove_leftovers()
    outcome = optimize(recipe, workspace, options.repository, options.reports)
    print_outcome(outcome, console)
    state = "packaged" if outcome.repository_changed else "unchanged"
    console.print(f"{state}: {options.repository}   report: {options.reports / 'report.html'}")


def announce_step(name: str, reused: bool) -> None:
    """One line per step while the pipeline runs."""
    console.print(f"[green]✓[/] {name} (unchanged)" if reused else f"[blue]▶[/] {name}")


def rebuild_data(options: argparse.Namespace) -> None:
    """Rebuild the data files and say how many lines each has."""
    from optimize.data import build_data

    provenance = build_data(options.output)
    for name, described in provenance["files"].items():
        console.print(f"{options.output / name}.jsonl.gz: {described['lines']:,} lines")


if __name__ == "__main__":
    sys.exit(main())
