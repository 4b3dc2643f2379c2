"""What a model's folder must hold, and what its configuration must not say."""

from collections.abc import Iterator
from pathlib import Path

from optimize.lint.findings import Finding, Model
from optimize.triton_config import CONFIG_NAME

MODEL_FILES = {
    "python": "model.py",
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "pytorch": "model.pt",
}


def file_findings(model: Model) -> Iterator[Finding]:
    """All checks of one model's files."""
    yield from check_names(model)
    yield from check_versions(model)
    yield from check_batching(model)
    yield from check_named_files(model)


def check_names(model: Model) -> Iterator[Finding]:
    """The name in the configuration is that of the folder; a backend is named."""
    if model.config.name not in ("", model.name):
        yield model.error(
            CONFIG_NAME,
            f"the name is {model.config.name!r} and the folder {model.name!r}",
            "make them equal, Triton refuses the model otherwise",
        )
    if not model.kind and not model.problems:
        yield model.error(CONFIG_NAME, "no backend is named", 'add backend: "python" or another')


def check_versions(model: Model) -> Iterator[Finding]:
    """There is a version, and the model's file in it."""
    if not model.versions:
        yield model.error(
            "1", "there is no version folder", "make one, for an ensemble an empty one"
        )
    name = model.config.default_model_filename or MODEL_FILES.get(model.kind)
    if name is None:
        return
    for version in model.versions:
        if not (version / name).exists():
            yield model.error(
                f"{version.name}/{name}", "the model's file is missing", "package it again"
            )


def check_batching(model: Model) -> Iterator[Finding]:
    """Dynamic batching needs a batch dimension, and sizes that it can reach."""
    config = model.config
    if config.HasField("dynamic_batching") and config.max_batch_size < 1:
        yield model.error(
            CONFIG_NAME,
            "dynamic batching with max_batch_size 0",
            "set max_batch_size, or remove dynamic_batching",
        )
    batching = config.dynamic_batching
    for size in batching.preferred_batch_size:
        if size > config.max_batch_size:
            yield model.error(
                CONFIG_NAME,
                f"preferred batch size {size} is above max_batch_size {config.max_batch_size}",
                "lower it",
            )
    if batching.default_queue_policy.allow_timeout_override:
        yield model.warning(
            CONFIG_NAME,
            "allow_timeout_override is set",
            "remove it: with it the batcher of Triton 2.51 stalls about once a second",
        )


def check_named_files(model: Model) -> Iterator[Finding]:
    """Warm-up data and label files that the configuration names are there and fit."""
    for sample in model.config.model_warmup:
        for tensor in sample.inputs.values():
            name = tensor.input_data_file
            if name and not (model.folder / "warmup" / name).is_file():
                yield model.error(f"warmup/{name}", "the warm-up file is missing", "package again")
    for output in model.config.output:
        if output.label_filename:
            yield from check_labels(model, output.label_filename, list(output.dims))


def check_labels(model: Model, name: str, dims: list[int]) -> Iterator[Finding]:
    """As many labels as the output has numbers."""
    path: Path = model.folder / name
    if not path.is_file():
        yield model.error(name, "the label file is missing", "write one label per line")
        return
    labels = len(path.read_text().splitlines())
    if dims and dims[-1] > 0 and labels != dims[-1]:
        yield model.error(
            name, f"{labels} labels for an output of {dims[-1]}", "write one label per class"
        )
