"""`python -m optimize init`: look at a model and write the recipe that fits it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import onnx

from models.manifest import Task, write_atomically
from optimize.data.files import READERS
from optimize.errors import RecipeError, SourceError
from optimize.load import POOLING_CONFIG, WEIGHTS, read_pooling, require_files
from optimize.load_onnx import read_graph

BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet")
DEFAULT_MAX_TOKENS = 256
QUESTION_COLUMNS = ("question", "query", "text")
PASSAGE_COLUMNS = ("passage", "answer", "document", "context")
LABEL_COLUMNS = ("label", "class", "category", "intent")


@dataclass(frozen=True)
class Seen:
    """What a look at a model tells. `layers` is 0 for a raw graph: no student can be made of it."""

    kind: str
    path: Path
    tokenizer: Path | None
    task: Task
    max_tokens: int
    layers: int
    pooling: str
    licence: str
    size_bytes: int
    has_head: bool


def write_recipe(
    model: Path, task: Task | None, data: Path | None, output: Path, force: bool
) -> Seen:
    """Write a commented recipe for a local Hugging Face directory or an ONNX file; what was seen of it.

    Raises SourceError when the model cannot be used, RecipeError when `output` is there already.
    """
    if output.exists() and not force:
        raise RecipeError(f"{output} is there already: choose another --output, or add --force")
    seen = look_at_graph(model, task) if model.suffix == ".onnx" else look_at_directory(model, task)
    columns = columns_of(data) if data is not None else []
    write_atomically(output, render(seen, output, data, columns).encode())
    return seen


def look_at_directory(directory: Path, task: Task | None) -> Seen:
    """A Hugging Face directory, in the sentence-transformers layout or not."""
    require_files(directory, str(directory))
    config = json.loads((directory / "config.json").read_text())
    if config.get("model_type") not in BERT_LIKE:
        raise SourceError(
            f"{directory} is a {config.get('model_type', 'model of unknown type')}: recipes are for "
            f"encoders ({', '.join(BERT_LIKE)}); export others to ONNX and name the .onnx file"
        )
    return Seen(
        kind="directory",
        path=directory,
        tokenizer=None,
        task=task or task_of(config),
        max_tokens=max_tokens_of(directory, config),
        layers=int(config.get("num_hidden_layers", 0)),
        pooling=read_pooling(directory),
        licence=licence_of(directory),
        size_bytes=(directory / WEIGHTS).stat().st_size,
        has_head=is_classifier(config),
    )


def look_at_graph(graph: Path, task: Task | None) -> Seen:
    """An ONNX file with tokenizer.json beside it."""
    tokenizer = graph.parent / "tokenizer.json"
    for path in (graph, tokenizer):
        if not path.is_file():
            raise SourceError(f"no file at {path}: a graph needs its tokenizer.json beside it")
    model = read_graph(graph)
    return Seen(
        kind="onnx",
        path=graph,
        tokenizer=tokenizer,
        task=task or task_of_graph(model),
        max_tokens=DEFAULT_MAX_TOKENS,
        layers=0,
        pooling="mean",
        licence=licence_of(graph.parent),
        size_bytes=graph.stat().st_size,
        has_head=False,
    )


def task_of(config: dict[str, Any]) -> Task:
    """By the head that the model was saved with."""
    if not is_classifier(config):
        return "embed"
    return "rerank" if len(config.get("id2label", {"0": ""})) == 1 else "classify"


def is_classifier(config: dict[str, Any]) -> bool:
    """Whether the model was saved with a classification head."""
    return any("SequenceClassification" in name for name in config.get("architectures") or [])


def task_of_graph(model: onnx.ModelProto) -> Task:
    """By the last dimension of the first output: one number is a score, a few are classes."""
    dims = model.graph.output[0].type.tensor_type.shape.dim
    width = dims[-1].dim_value if dims else 0
    if len(dims) == 2 and width == 1:
        return "rerank"
    return "classify" if len(dims) == 2 and 1 < width < 128 else "embed"


def max_tokens_of(directory: Path, config: dict[str, Any]) -> int:
    """The length that the model was published with, or half of its positions."""
    published = directory / "sentence_bert_config.json"
    positions = int(config.get("max_position_embeddings", DEFAULT_MAX_TOKENS))
    if published.is_file():
        return min(positions, int(json.loads(published.read_text())["max_seq_length"]))
    return min(positions, DEFAULT_MAX_TOKENS)


def licence_of(directory: Path) -> str:
    """From the front matter of the model's README."""
    readme = directory / "README.md"
    lines = readme.read_text(errors="replace").splitlines()[:40] if readme.is_file() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("license:"))
    return next(found, "unknown, look it up before you serve it")


def columns_of(data: Path) -> list[str]:
    """The columns of a data file. Raises SourceError."""
    if data.suffix.lower() not in READERS or not data.is_file():
        raise SourceError(f"no data file at {data}: name one that ends in {', '.join(READERS)}")
    return list(READERS[data.suffix.lower()](data).column_names)


def student_layers(layers: int) -> list[int]:
    """Evenly spaced, the first and the last among them: a third of the teacher's."""
    wanted = max(2, round(layers / 3))
    return sorted({round(i * (layers - 1) / (wanted - 1)) for i in range(wanted)})


def render(seen: Seen, output: Path, data: Path | None, columns: list[str]) -> str:
    """The recipe as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("optimize", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def column(usual: tuple[str, ...]) -> str:
        return next((name for name in usual if name in columns), usual[0])

    return environment.get_template("recipe.yaml.j2").render(
        seen=seen,
        name="".join(c if c.isalnum() else "-" for c in output.stem.lower()).strip("-"),
        path=seen.path.resolve(),
        tokenizer=seen.tokenizer.resolve() if seen.tokenizer else None,
        layers=student_layers(seen.layers) if seen.layers > 2 else [],
        data=data.resolve() if data else "/path/to/your/data.csv",
        question=column(QUESTION_COLUMNS),
        passage=column(PASSAGE_COLUMNS),
        text=column(("text", "question", "query")),
        label=column(LABEL_COLUMNS),
        pooling_file=POOLING_CONFIG,
    )
