"""`python -m optimize run RECIPE` and `python -m optimize data`."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from models.manifest import ManifestError
from models.signature import discard_bytecode, trusted_key_path, verify_signature
from optimize.errors import OptimizeError
from optimize.recipe import read_recipe
from optimize.steps import Workspace

console = Console(stderr=False)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused with a reason, 130 stopped by Ctrl-C."""
    options = build_parser().parse_args(arguments)
    try:
        options.command(options)
    except (OptimizeError, ManifestError) as error:
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
    signing = commands.add_parser("sign", help="sign a repository with your key")
    signing.add_argument("repository", type=Path, nargs="?", default=Path("build/repository"))
    signing.set_defaults(command=sign_packaged)
    verify = commands.add_parser("verify", help="check each file of a repository's signature")
    verify.add_argument("repository", type=Path, nargs="?", default=Path("build/repository"))
    verify.add_argument(
        "--trusted-key", type=Path, help="default FARSHORE_TRUSTED_KEY, else keys/farshore.pub"
    )
    verify.set_defaults(command=verify_packaged)
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
    from optimize.data.boolq import build_data

    provenance = build_data(options.output)
    for name, described in provenance["files"].items():
        console.print(f"{options.output / name}.jsonl.gz: {described['lines']:,} lines")


def sign_packaged(options: argparse.Namespace) -> None:
    """Sign a repository unless it is signed already, and say with which key."""
    from optimize.sign import sign_repository, signing_key

    key = signing_key(os.environ)
    state = "signed" if sign_repository(options.repository, key) else "signed already"
    console.print(f"{state}: {options.repository}   key: {key}")


def verify_packaged(options: argparse.Namespace) -> None:
    """Check a repository as serving does, without serving it."""
    discard_bytecode(options.repository)
    verify_signature(options.repository, options.trusted_key or trusted_key_path(os.environ))
    console.print(f"verified: {options.repository} is what was signed")


if __name__ == "__main__":
    sys.exit(main())
