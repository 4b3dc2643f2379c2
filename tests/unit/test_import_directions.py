"""The three packages meet in files and protocols: who may import what of whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What lies between the packages: the manifest, its signature, what drift is measured against, prices, and how
# files are written and hardware is named.
CONTRACT = (
    "models.manifest",
    "models.signature",
    "models.profile",
    "models.prices",
    "models.files",
    "models.hardware",
)

# What each package may import of the project beside itself. `import models` alone gives no code but the
# place of the data files below it.
ALLOWED = {
    "optimize": (*CONTRACT, "models.triton"),
    "serving": CONTRACT,
    "loadtest": CONTRACT,
    "models": (),
}
MODULES = {
    path.relative_to(ROOT).as_posix(): path
    for package in ALLOWED
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported_modules(module: str, source: str) -> set[str]:
    """Absolute names of everything that a source imports, at its top or inside its functions.

    `from a import b` counts as `a.b`: b may be a module.
    """
    parents = Path(module).with_suffix("").parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*parents[: -node.level], node.module] if node.level else [node.module]
            origin = ".".join(part for part in base if part)
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def forbidden_imports(module: str, source: str) -> set[str]:
    """What a module, named by its path, imports of the project though it must not."""
    package = module.split("/")[0]
    return {
        name
        for name in imported_modules(module, source)
        if name.split(".")[0] in ALLOWED.keys() - {package}
        and name != "models"
        and not any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[package])
    }


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_package_may(module: str):
    assert forbidden_imports(module, MODULES[module].read_text()) == set()


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_imports_nothing_of_the_project_but_itself(name: str):
    module = f"{name.replace('.', '/')}.py"
    imported = imported_modules(module, MODULES[module].read_text())
    own = {name for name in imported if name.split(".")[0] in ALLOWED}
    assert {".".join(name.split(".")[:2]) for name in own} <= {*CONTRACT} - {name}


@pytest.mark.parametrize("package", ["optimize", "serving", "loadtest"])
def test_every_module_of_a_package_is_looked_at(package: str):
    on_disk = {path for path in (ROOT / package).glob("**/*") if path.suffix == ".py"}
    assert {ROOT / module for module in MODULES if module.startswith(f"{package}/")} == on_disk
    assert f"{package}/__main__.py" in MODULES


@pytest.mark.parametrize(
    ("module", "source", "refused"),
    [
        ("serving/a.py", "import optimize", "optimize"),
        ("serving/a.py", "import loadtest.cost as c", "loadtest.cost"),
        ("serving/gateway/a.py", "from models import triton", "models.triton"),
        ("loadtest/a.py", "from models.triton.text_encoder import encoder", "models.triton"),
        ("loadtest/a.py", "def f():\n    from serving.stack import run", "serving.stack"),
        ("loadtest/a.py", "if TYPE_CHECKING:\n    import serving.stack", "serving.stack"),
        ("loadtest/bench/a.py", "from ...serving import stack", "serving.stack"),
        ("optimize/a.py", "from serving.triton import launch", "serving.triton.launch"),
        ("optimize/a.py", "import models.recipes", "models.recipes"),
        ("models/manifest.py", "from optimize.recipe import Recipe", "optimize.recipe"),
        ("models/triton/text_encoder/a.py", "import loadtest", "loadtest"),
    ],
)
def test_an_offending_import_is_found_wherever_it_stands(module: str, source: str, refused: str):
    (found,) = forbidden_imports(module, source)
    assert found.startswith(refused)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("optimize/a.py", "from models.triton.text_encoder.encoder import TextEncoder"),
        ("optimize/a.py", "import models.triton.text_encoder as text_encoder"),
        ("serving/a.py", "from models.manifest import Manifest"),
        ("serving/gateway/a.py", "from .errors import GatewayError"),
        ("loadtest/a.py", "import models"),
        ("loadtest/a.py", "import optimizers, servingware"),
    ],
)
def test_a_permitted_import_is_not_reported(module: str, source: str):
    assert forbidden_imports(module, source) == set()
