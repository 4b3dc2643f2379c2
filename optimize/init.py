"""`python -m optimize init`: look at a model and write the recipe that fits it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import onnx

from models.files import write_atomically
from models.manifest import Task
from optimize.classifier import is_classifier
from optimize.data.files import column_names, read_table
from optimize.errors import QuantizeError, RecipeError, SourceError
from optimize.load import POOLING_CONFIG, WEIGHTS, longest_input, read_pooling, require_files
from optimize.load_onnx import external_files, read_graph
from optimize.quantize.graph import weight_products

BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "distilbert")
WITHOUT_STUDENT = ("distilbert",)  # its layers lie elsewhere, and it is a student already
DEFAULT_MAX_TOKENS = 256
UNKNOWN_LICENCE = "unknown, look it up before you serve it"
MAX_CLASSES = 127  # of a raw graph: a wider output is a vector

# The usual names of columns, and where they stand when they are called otherwise.
COLUMNS = {
    "question": (("question", "query", "text"), 0),
    "passage": (("passage", "answer", "document", "context"), 1),
    "text": (("text", "question", "query", "sentence"), 0),
    "label": (("label", "class", "category", "intent"), 1),
}


@dataclass(frozen=True)
class Seen:
    """What a look at a model tells. `labels` are the classes of one that is trained already, in the order of
    its outputs; `layers` is 0 where no student can be made of it.
    """

    kind: str
    path: Path
    words: str
    task: Task
    max_tokens: int
    licence: str
    tokenizer: Path | None = None
    layers: int = 0
    labels: tuple[str, ...] = ()
    can_quantize: bool = True


def write_recipe(
    model: Path, task: Task | None, data: Path | None, output: Path, force: bool
) -> Seen:
    """Write a commented recipe for a local Hugging Face directory or an ONNX file; what was seen of it.

    Raises SourceError when the model cannot be used, RecipeError when `output` is there already.
    """
    if output.exists() and not force:
        raise RecipeError(f"{output} is there already: choose another --output, or add --force")
    seen = look_at_graph(model, task) if model.suffix == ".onnx" else look_at_directory(model, task)
    columns = column_names(data) if data is not None else []
    text = render(seen, output, data, columns)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, text.encode())
    return seen


def look_at_directory(directory: Path, task: Task | None) -> Seen:
    """A Hugging Face directory, in the sentence-transformers layout or not."""
    require_files(directory, str(directory))
    config = read_config(directory / "config.json")
    kind = str(config.get("model_type", "model of unknown type"))
    if kind not in BERT_LIKE:
        raise SourceError(
            f"{directory} is a {kind}: recipes are for encoders ({', '.join(BERT_LIKE)}); export others "
            "to ONNX and name the .onnx file"
        )
    task = task or task_of(config)
    layers = int(config.get("num_hidden_layers") or config.get("n_layers") or 0)
    width = config.get("hidden_size") or config.get("dim")
    pooled = f"{read_pooling(directory)} pooling, " if task == "embed" else ""
    labels = label_names(config) if task == "classify" and is_classifier(config) else ()
    return Seen(
        kind="directory",
        path=directory,
        words=f"{kind}, {layers} layers of {width}, {pooled}{megabytes(directory / WEIGHTS)}",
        task=task,
        max_tokens=max_tokens_of(directory, config),
        licence=licence_of(directory),
        layers=0 if labels or kind in WITHOUT_STUDENT else layers,
        labels=labels,
    )


def look_at_graph(graph: Path, task: Task | None) -> Seen:
    """An ONNX file with tokenizer.json beside it or in the folder above, as in the onnx/ of an export."""
    if not graph.is_file():
        raise SourceError(f"no file at {graph}: name an .onnx file or a Hugging Face directory")
    tokenizer = find_beside(graph, "tokenizer.json")
    if tokenizer is None:
        raise SourceError(
            f"no tokenizer.json beside {graph} nor in the folder above: a graph needs its tokenizer"
        )
    model = read_graph(graph, weights=False)
    task = task or task_of_graph(model)
    config = find_beside(graph, "config.json")
    labels = label_names(read_config(config)) if config else ()
    width = last_dim(model)
    if len(labels) != width:
        labels = tuple(map(str, range(width)))
    return Seen(
        kind="onnx",
        path=graph,
        words=f"a raw graph, {megabytes(graph, *external_files(graph))}",
        task=task,
        max_tokens=tokenizer_limit(tokenizer),
        licence=licence_of(tokenizer.parent),
        tokenizer=tokenizer,
        labels=labels if task == "classify" else (),
        can_quantize=can_quantize(model),
    )


def find_beside(graph: Path, name: str) -> Path | None:
    """A file beside a graph or in the folder above."""
    places = (graph.parent / name, graph.resolve().parent.parent / name)
    return next((path for path in places if path.is_file()), None)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object. Raises SourceError."""
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"{path} is not a JSON object ({error}): fetch the model again"
        ) from error


def task_of(config: dict[str, Any]) -> Task:
    """By the head that the model was saved with."""
    if not is_classifier(config):
        return "embed"
    return "rerank" if len(label_names(config)) == 1 else "classify"


def label_names(config: dict[str, Any]) -> tuple[str, ...]:
    """The classes in the order of the outputs; transformers leaves two unnamed ones out of its files."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    ordered = (str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0])))
    return tuple(name.removeprefix("LABEL_") for name in ordered)


def task_of_graph(model: onnx.ModelProto) -> Task:
    """By the shape of the first output: one number is a score, a few are classes."""
    dims, width = model.graph.output[0].type.tensor_type.shape.dim, last_dim(model)
    if len(dims) == 1 or (len(dims) == 2 and width == 1):
        return "rerank"
    return "classify" if len(dims) == 2 and 1 < width <= MAX_CLASSES else "embed"


def last_dim(model: onnx.ModelProto) -> int:
    """The size of the first output's last dimension; 0 when the graph does not say."""
    dims = model.graph.output[0].type.tensor_type.shape.dim
    return int(dims[-1].dim_value) if dims else 0


def can_quantize(model: onnx.ModelProto) -> bool:
    """Whether the graph still has products with FP32 weights."""
    try:
        return bool(weight_products(model))
    except QuantizeError:
        return False


def max_tokens_of(directory: Path, config: dict[str, Any]) -> int:
    """The length that the model was published with, or what its positions have room for."""
    published = directory / "sentence_bert_config.json"
    limit = DEFAULT_MAX_TOKENS
    if published.is_file():
        limit = int(read_config(published).get("max_seq_length") or limit)
    return min(limit, longest_input(config))


def tokenizer_limit(tokenizer: Path) -> int:
    """Where a tokenizer was saved to truncate, or a default."""
    truncation = read_config(tokenizer).get("truncation") or {}
    return int(truncation.get("max_length", DEFAULT_MAX_TOKENS))


def licence_of(directory: Path) -> str:
    """From the front matter of the model's README."""
    readme = directory / "README.md"
    text = readme.read_text(errors="replace") if readme.is_file() else ""
    front = text.split("---")[1] if text.startswith("---") else ""
    found = re.search(r"^license:\s*(?:-\s*)?['\"]?([\w.+-]+)", front, re.MULTILINE)
    return found.group(1) if found else UNKNOWN_LICENCE


def megabytes(*files: Path) -> str:
    """The size of files together."""
    size_bytes = sum(path.stat().st_size for path in files if path.is_file())
    return f"{size_bytes / 1e6:.0f} MB"


def student_layers(layers: int) -> list[int]:
    """Evenly spaced, the first and the last among them: a third of the teacher's."""
    wanted = max(2, round(layers / 3))
    return sorted({round(i * (layers - 1) / (wanted - 1)) for i in range(wanted)})


def pick_column(wanted: str, columns: Sequence[str]) -> str:
    """The column with a usual name, else the one that stands where it usually does."""
    usual, place = COLUMNS[wanted]
    if not columns:
        return wanted
    by_lower = {name.lower(): name for name in reversed(columns)}
    named = next((by_lower[name] for name in usual if name in by_lower), None)
    return named or columns[min(place, len(columns) - 1)]


def labels_as_written(labels: Sequence[str], data: Path | None, column: str) -> list[str]:
    """A model's classes spelt as the data spells them; the data's own where they have nothing in common."""
    if data is None or not labels:
        return list(labels)
    values = {row[column] for row in read_table(data, [column]).rows}
    spelt = {value.lower(): value for value in sorted(values)}
    if all(label.lower() in spelt for label in labels):
        return [spelt[label.lower()] for label in labels]
    return sorted(values) if len(values) == len(labels) else list(labels)


def recipe_name(output: Path) -> str:
    """A name that Triton and recipes take, after the file's."""
    return re.sub(r"[^a-z0-9]+", "-", output.stem.lower()).strip("-") or "model"


def render(seen: Seen, output: Path, data: Path | None, columns: list[str]) -> str:
    """The recipe as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("optimize", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = quoted
    label = pick_column("label", columns)
    return environment.get_template("recipe.yaml.j2").render(
        seen=seen,
        name=recipe_name(output),
        path=str(seen.path.resolve()),
        tokenizer=str(seen.tokenizer.resolve()) if seen.tokenizer else None,
        layers=student_layers(seen.layers) if seen.layers > 2 else [],
        labels=labels_as_written(seen.labels, data, label),
        data=str(data.resolve()) if data else "/path/to/your/data.csv",
        columns=columns,
        question=pick_column("question", columns),
        passage=pick_column("passage", columns),
        text=pick_column("text", columns),
        label=label,
        pooling_file=POOLING_CONFIG,
    )


def quoted(value: Any) -> str:
    """A value as JSON, which YAML reads as well: whatever stands in paths and names stays a text."""
    return json.dumps(value, ensure_ascii=False)
