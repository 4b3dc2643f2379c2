from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimize.errors import RecipeError
from optimize.recipe import DirectorySource, PackageSource, Recipe, encoder_settings, read_recipe

ROOT = Path(__file__).resolve().parents[3]
SEARCH_ENCODER = ROOT / "models/recipes/search-encoder.yaml"

MINIMAL = {
    "name": "encoder",
    "task": "embed",
    "source": {"kind": "directory", "directory": "model", "licence": "MIT"},
    "variants": ["fp32"],
    "evaluation": {"data": "../data"},
}

Write = Callable[..., Path]


@pytest.fixture
def write_recipe(tmp_path: Path) -> Write:
    """Writes a recipe: the minimal one with these fields changed."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "recipes/encoder.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(MINIMAL | changes))
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(RecipeError) as refused:
        read_recipe(path)
    return str(refused.value)


@pytest.mark.parametrize("path", sorted((ROOT / "models/recipes").glob("*.yaml")), ids=str)
def test_a_shipped_recipe_reads_and_its_data_is_there(path: Path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert (recipe.evaluation.data / "PROVENANCE.json").is_file()


def test_the_shipped_recipe_pins_its_package_by_hash():
    source = read_recipe(SEARCH_ENCODER).source
    assert isinstance(source, PackageSource)
    assert len(source.sha256) == 64


def test_relative_paths_start_at_the_recipe(
    write_recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_recipe()
    monkeypatch.chdir(path.parent)
    recipe = read_recipe(Path(path.name))
    assert recipe.evaluation.data == tmp_path / "data"
    assert isinstance(recipe.source, DirectorySource)
    assert recipe.source.directory == tmp_path / "recipes/model"


def test_an_absolute_path_stays_as_it_is(write_recipe: Write, tmp_path: Path):
    path = write_recipe(evaluation={"data": str(tmp_path / "elsewhere")})
    assert read_recipe(path).evaluation.data == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"max_token": 128}, "max_token: unknown field; did you mean `max_tokens`?"),
        (
            {"serving": {"instance": 2}},
            "serving.instance: unknown field; did you mean `instances`?",
        ),
        ({"gate": {"max_ndgc_loss": 0}}, "did you mean `max_ndcg_loss`?"),
        ({"zzz": 1}, "zzz: unknown field; remove it, or see models/recipes/ for the fields"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest_known_one(
    write_recipe: Write, changes: dict[str, Any], line: str
):
    assert line in refusal(write_recipe(**changes))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 1}, "max_tokens: Input should be greater than or equal to 8"),
        ({"variants": []}, "variants: "),
        ({"variants": ["int4"]}, "variants.0: Input should be 'fp32' or 'int8'"),
        ({"name": "../escape"}, "name: "),
        ({"gate": {"min_speedup": {"one": 2}}}, "gate.min_speedup.one"),
        ({"speed": {"rounds": 3}}, "speed.rounds: "),
        ({"source": {"kind": "ftp"}}, "source: "),
        ({"source": None}, "source: "),
    ],
)
def test_a_wrong_value_is_named_by_its_place(
    write_recipe: Write, changes: dict[str, Any], where: str
):
    assert f"\n  {where}" in refusal(write_recipe(**changes))


def test_every_problem_gets_one_line(write_recipe: Write):
    message = refusal(write_recipe(max_tokens="many", zzz=1, variants=[]))
    first, *problems = message.splitlines()
    assert first.endswith("has 3 problem(s):")
    assert sorted(problem.split(":")[0].strip() for problem in problems) == [
        "max_tokens",
        "variants",
        "zzz",
    ]


@pytest.mark.parametrize(
    ("sha256", "package"),
    [
        ("abc", "parcel==1.0"),
        ("G" * 64, "parcel==1.0"),
        ("0" * 64, "parcel"),
        ("0" * 64, "parcel>=1.0"),
        ("0" * 64, "--index-url==1.0 parcel"),
    ],
)
def test_a_package_source_takes_an_exact_version_and_a_whole_sha256(
    write_recipe: Write, sha256: str, package: str
):
    source = {
        "kind": "package",
        "package": package,
        "sha256": sha256,
        "path": "p",
        "licence": "MIT",
    }
    assert "source.package." in refusal(write_recipe(source=source))


@pytest.mark.parametrize("revision", ["main", "v1.0", "0" * 39, "0" * 41])
def test_a_hub_source_takes_a_whole_commit(write_recipe: Write, revision: str):
    source = {"kind": "hub", "repository": "a/b", "revision": revision, "licence": "MIT"}
    assert "source.hub.revision: String should match" in refusal(write_recipe(source=source))


def test_a_missing_recipe_names_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    message = refusal(tmp_path / "none.yaml")
    assert f"no recipe at {tmp_path / 'none.yaml'}" in message
    assert "models/recipes/search-encoder.yaml" in message


def test_a_folder_is_no_recipe(tmp_path: Path):
    assert f"no recipe at {tmp_path}" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"name: [", b"\xff\xfe\x00", b"a: b: c"])
def test_what_is_not_yaml_is_refused_with_its_place(tmp_path: Path, content: bytes):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert f"{path} is not valid YAML" in refusal(path)


@pytest.mark.parametrize("content", ["", "just a sentence", "[1, 2]"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    assert "recipe: Input should be" in refusal(path)


def test_yaml_cannot_run_code(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"!!python/object/apply:pathlib.Path.touch [{tmp_path / 'touched'}]")
    refusal(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("target", "first"), [("cpu", "CPUExecutionProvider"), ("gpu", "CUDAExecutionProvider")]
)
def test_the_target_decides_where_the_model_runs(small_recipe: Recipe, target: str, first: str):
    settings = encoder_settings(small_recipe.model_copy(update={"target": target}))
    assert settings.providers[0] == first
