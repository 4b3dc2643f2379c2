"""`python -m optimize`: run a recipe, start one for your model, check, sign and verify repositories."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from models.manifest import ManifestError
from models.prices import PricesError
from models.signature import discard_bytecode, trusted_key_path, verify_signature
from optimize.errors import LintError, OptimizeError
from optimize.full_disk import is_full_disk
from optimize.recipe import read_recipe
from optimize.steps import Workspace

# A log file is as wide as it needs to be; rich would assume 80 columns and cut the table.
console = Console(width=None if sys.stdout.isatty() else 160)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; its exit status."""
    options = build_parser().parse_args(arguments)
    return attempt(partial(options.command, options))


def attempt(command: Callable[[], None]) -> int:
    """Exit status: 0 done, 1 refused with a reason, 130 stopped by Ctrl-C."""
    try:
        command()
    except (OptimizeError, ManifestError, PricesError) as error:
        return refuse(str(error))
    except OSError as error:
        if not is_full_disk(error):
            raise
        return refuse("the disk is full: free some space and run again, finished steps are kept")
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped: finished steps are kept, run again to resume")
        return 130
    return 0


def refuse(message: str) -> int:
    """Say why, and return the exit status."""
    Console(stderr=True).print(
        f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True
    )
    return 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m optimize", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="recipe -> packaged, measured Triton repository")
    run.add_argument("recipe", type=Path)
    run.add_argument("--repository", type=Path, default=Path("build/repository"))
    run.add_argument("--reports", type=Path, default=Path("build/optimize"))
    run.add_argument("--variant", help="package this accepted variant instead of the cheapest")
    run.add_argument("--tune-folder", type=Path, default=Path("build/tune"), help="of `tune`")
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
    init = commands.add_parser("init", help="look at your model and write a recipe for it")
    init.add_argument("model", type=Path, help="a Hugging Face directory, or an .onnx file")
    init.add_argument("--task", choices=("embed", "classify", "rerank"))
    init.add_argument("--data", type=Path, help="your data: CSV, JSON lines or Parquet")
    init.add_argument("--output", type=Path, default=Path("recipe.yaml"))
    init.add_argument("--force", action="store_true", help="overwrite the output")
    init.set_defaults(command=init_recipe)
    tuning = commands.add_parser("tune", help="search the serving parameters on a real Triton")
    tuning.add_argument("recipe", type=Path)
    tuning.add_argument("--repository", type=Path, default=Path("build/repository"))
    tuning.add_argument("--publish", type=Path, help="where, if not in place of the repository")
    tuning.add_argument("--folder", type=Path, default=Path("build/tune"), help="studies, report")
    tuning.add_argument("--cache", type=Path, default=Path("build/cache"))
    tuning.add_argument("--trials", type=int, help="default tune.trials of the recipe")
    tuning.add_argument("--minutes", type=float, help="end the search, not the trial, after these")
    tuning.add_argument("--rounds", type=int, default=5, help="of the best against the default")
    tuning.add_argument("--search", choices=("tpe", "grid", "shuffled-grid"), default="tpe")
    tuning.set_defaults(command=tune_repository)
    check = commands.add_parser("lint", help="check any Triton repository without a server")
    check.add_argument("repository", type=Path, nargs="?", default=Path("build/repository"))
    check.add_argument("--trusted-key", type=Path, help="check the signature with this key as well")
    check.add_argument("--compute-capability", help="of the GPU it is for, such as 9.0")
    check.set_defaults(command=lint_repository)
    return parser


def run_recipe(options: argparse.Namespace) -> None:
    """Run the pipeline and print what came out."""
    recipe = read_recipe(options.recipe)
    # torch and matplotlib load slowly: only once the recipe is known to be good.
    from optimize.pipeline import optimize
    from optimize.report import print_outcome

    workspace = Workspace(options.cache, announce_step)
    workspace.remove_leftovers()
    outcome = optimize(
        recipe,
        workspace,
        options.repository,
        options.reports,
        asked=options.variant,
        tune_folder=options.tune_folder,
    )
    print_outcome(outcome, console)
    state = "packaged" if outcome.repository_changed else "unchanged"
    console.print(f"{state}: {options.repository}   report: {options.reports / 'report.html'}")


def tune_repository(options: argparse.Namespace) -> None:
    """Search, publish what was found and print it."""
    recipe = read_recipe(options.recipe)
    from optimize.data import data_folder
    from optimize.tasks import TASKS
    from optimize.tune.report import print_tuning
    from optimize.tune.run import REPORT_NAME, plan_of, tune

    plan = plan_of(recipe, options)
    folder = data_folder(recipe.evaluation.data, Workspace(options.cache, announce_step))
    data = TASKS[recipe.task].read(folder, recipe.evaluation)
    report, published = tune(recipe, plan, data.profile_items, print_line)
    print_tuning(report, console)
    state = "published" if published.changed else "unchanged"
    console.print(f"{state}: {published.repository}   report: {plan.folder / REPORT_NAME}")


def print_line(line: str) -> None:
    """One line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


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


def init_recipe(options: argparse.Namespace) -> None:
    """Write a recipe and say what was seen and what comes next."""
    from optimize.init import write_recipe

    seen = write_recipe(options.model, options.task, options.data, options.output, options.force)
    print_line(f"{seen.path.name}: {seen.words}, task {seen.task}, {seen.max_tokens} tokens")
    if seen.labels:
        print_line(
            "it is trained already: check the order of its classes in evaluation.data.labels"
        )
    data = "check the columns of" if options.data else "name"
    print_line(
        f"wrote {options.output}: {data} your data in evaluation.data, then run "
        f"`python -m optimize run {options.output}`"
    )


def lint_repository(options: argparse.Namespace) -> None:
    """Print a line per finding. Raises LintError when one is an error."""
    from optimize.lint import lint

    found = lint(options.repository, options.trusted_key, options.compute_capability)
    for finding in found:
        console.print(finding.line, highlight=False, markup=False, soft_wrap=True)
    errors = sum(finding.severity == "error" for finding in found)
    if errors:
        raise LintError(f"{errors} errors in {options.repository}: correct them before serving it")
    console.print(f"clean: {options.repository} ({len(found)} warnings)")


def verify_packaged(options: argparse.Namespace) -> None:
    """Check a repository as serving does, without serving it."""
    discard_bytecode(options.repository)
    verify_signature(options.repository, options.trusted_key or trusted_key_path(os.environ))
    console.print(f"verified: {options.repository} is what was signed")


if __name__ == "__main__":
    sys.exit(main())
