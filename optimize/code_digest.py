"""The digest of the code that makes a step, so that new code makes it again."""

import ast
import inspect
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from models.files import sha256_lines

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("optimize", "models")


def code_digest(code: Callable[..., Any]) -> str:
    """The digest of what a function runs: its module and the modules behind it."""
    function = inspect.unwrap(getattr(code, "func", code))
    return module_digest(Path(str(sys.modules[function.__module__].__file__)))


def module_digest(module: Path) -> str:
    """The digest of a module and of the project's modules that it imports, directly or not.

    Comments and layout do not count: to explain a line is no reason to train a model again.
    """
    files = files_behind(module)
    return sha256_lines(f"{path.name} {structure_of(path.read_text())}" for path in files)


def files_behind(module: Path) -> list[Path]:
    """The file of a module and those of all project modules that it imports, directly or not."""
    found, waiting = {module}, [module]
    while waiting:
        path = waiting.pop()
        imported = set(map(file_of, names_imported(path.read_text(), package_of(path))))
        new = {file for file in imported if file is not None} - found
        found |= new
        waiting += new
    return sorted(found)


@cache
def structure_of(source: str) -> str:
    """What Python reads of a source."""
    return ast.dump(ast.parse(source))


@cache
def names_imported(source: str, package: str) -> frozenset[str]:
    """Absolute names of what a source imports, also inside its functions; `from a import b` gives a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return frozenset(names)


def package_of(path: Path) -> str:
    """The package that a file's relative imports start at; empty outside of the project."""
    if not path.is_relative_to(ROOT):
        return ""
    return ".".join(path.relative_to(ROOT).parent.parts)


def file_of(name: str) -> Path | None:
    """The file of a project module, or of the module that holds what is named; None of other packages."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    places = (ROOT.joinpath(*parts), ROOT.joinpath(*parts[:-1]))
    files = (file for place in places for file in (place.with_suffix(".py"), place / "__init__.py"))
    return next((file for file in files if file.is_file()), None)
