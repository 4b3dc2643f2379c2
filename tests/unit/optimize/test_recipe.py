from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimize.errors import RecipeError
from optimize.recipe import Recipe, encoder_settings, read_recipe, recipe_digest
from optimize.sections import DirectorySource, FolderData, PackageSource

ROOT = Path(__file__).resolve().parents[3]
SEARCH_ENCODER = ROOT / "models/recipes/search-encoder.yaml"

MINIMAL = {
    "name": "encoder",
    "task": "embed",
    "source": {"kind": "directory", "directory": "model", "licence": "MIT"},
    "variants": ["fp32"],
    "evaluation": {"data": {"kind": "folder", "folder": "../data"}},
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


@pytest.mark.parametrize("path", sorted((ROOT / "models/recipes").rglob("*.yaml")), ids=str)
def test_a_shipped_recipe_reads_and_its_data_is_there(path: Path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    data = recipe.evaluation.data
    assert not isinstance(data, FolderData) or (data.folder / "PROVENANCE.json").is_file()


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
    assert recipe.evaluation.data == FolderData(folder=tmp_path / "data")
    assert isinstance(recipe.source, DirectorySource)
    assert recipe.source.directory == tmp_path / "recipes/model"


def test_an_absolute_path_stays_as_it_is(write_recipe: Write, tmp_path: Path):
    elsewhere = {"kind": "folder", "folder": str(tmp_path / "elsewhere")}
    recipe = read_recipe(write_recipe(evaluation={"data": elsewhere}))
    assert recipe.evaluation.data == FolderData(folder=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"max_token": 128}, "max_token: unknown field; did you mean `max_tokens`?"),
        (
            {"serving": {"instance": 2}},
            "serving.instance: unknown field; did you mean `instances`?",
        ),
        ({"gate": {"min_speedups": {}}}, "did you mean `min_speedup`?"),
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
        ({"variants": ["int4"]}, "variants.0: Value error, no variant is called 'int4': use fp32,"),
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


CLASSIFIER = {"task": "classify", "evaluation": {"data": {"kind": "trec", "classes": 6}}}
GRAPH = {"kind": "onnx", "graph": "m.onnx", "tokenizer": "tokenizer.json", "licence": "MIT"}


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"variants": ["student-int8"]}, "student variants need distill.student"),
        ({"variants": ["static"]}, "static variants need distill.static"),
        (
            {"variants": ["student-int8"], "distill": {"student": {"layers": [0]}}},
            "holds none, name distill.texts",
        ),
        ({"fine_tune": {}}, "fine_tune trains classifiers"),
        ({"source": GRAPH}, "use variants given, given-fused, int8 or qdq"),
        ({"variants": ["given"]}, "`given` is the variant of a raw ONNX graph: use fp32"),
        (
            {"gate": {"max_absolute_loss": {"accuracy": 0.1}}},
            "gate: no metric accuracy for embed: use ndcg@10, recall@1, recall@10, mrr@10",
        ),
        (CLASSIFIER | {"serving": {"vectors": "int8"}}, "serving.vectors is for embedders"),
        ({"serving": {"core": "tensorrt"}}, "serving.core: tensorrt needs target: gpu"),
        (
            {"target": "gpu", "serving": {"core": "tensorrt"}},
            "set tensorrt.builder: tensorrt and run it on the GPU, or choose",
        ),
        (
            {
                "target": "gpu",
                "serving": {"core": "tensorrt"},
                "tensorrt": {"builder": "tensorrt_rtx", "compute_capabilities": ["8.9"]},
            },
            "serves an engine of the datacenter builder: set tensorrt.builder: tensorrt",
        ),
        (
            {
                "target": "gpu",
                "serving": {"core": "tensorrt"},
                "tensorrt": {"compute_capabilities": ["8.0", "9.0"]},
            },
            "packages one engine: name one GPU in tensorrt.compute_capabilities",
        ),
    ],
)
def test_sections_that_do_not_fit_together_are_refused_with_advice(
    write_recipe: Write, changes: dict[str, Any], advice: str
):
    assert advice in refusal(write_recipe(**changes))


def test_the_digest_is_of_what_a_recipe_means_and_not_of_where_its_files_lie(tiny_recipe: Recipe):
    moved = tiny_recipe.source.model_copy(update={"directory": Path("/elsewhere/tiny-model0")})
    renamed = tiny_recipe.source.model_copy(update={"directory": Path("/elsewhere/other")})
    digests = [
        recipe_digest(tiny_recipe.model_copy(update=changes))
        for changes in (
            {"source": moved},
            {"source": moved.model_copy(update={"directory": Path("/tiny-model0")})},
            {"source": renamed},
            {"max_tokens": 32},
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
