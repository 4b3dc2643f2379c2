"""Whether the steps of an ensemble meet: every tensor comes from somewhere, goes somewhere, is one thing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optimize.lint.findings import Finding, Model
from optimize.tensors import TensorSpec, declared, fits, type_name
from optimize.triton_config import CONFIG_NAME


def ensemble_findings(models: Sequence[Model]) -> Iterator[Finding]:
    """All checks of all ensembles."""
    by_name = {model.name: model for model in models}
    for model in models:
        if model.kind == "ensemble":
            yield from check_ensemble(model, by_name)


def check_ensemble(model: Model, by_name: Mapping[str, Model]) -> Iterator[Finding]:
    """One ensemble: its steps, then its tensors."""
    steps = model.config.ensemble_scheduling.step
    if not steps:
        yield model.error(CONFIG_NAME, "an ensemble without steps", "add ensemble_scheduling")
        return
    for step in steps:
        part = by_name.get(step.model_name)
        if part is None:
            yield model.error(
                CONFIG_NAME,
                f"the step {step.model_name} is not in the repository",
                "add the model, or correct the name",
            )
            continue
        yield from check_step(model, part, step)
    yield from check_flow(model)
    yield from check_tensors(model, by_name)


def check_step(model: Model, part: Model, step: Any) -> Iterator[Finding]:
    """A step's maps name tensors of its model, all inputs are fed, and its batches are large enough."""
    inputs = {tensor.name for tensor in part.config.input}
    outputs = {tensor.name for tensor in part.config.output}
    fed, taken = dict(step.input_map), dict(step.output_map)
    for name in sorted(inputs - fed.keys()):
        yield model.error(
            CONFIG_NAME, f"the input {name} of {part.name} is not fed", "add it to input_map"
        )
    for name in sorted((fed.keys() - inputs) | (taken.keys() - outputs)):
        yield model.error(
            CONFIG_NAME, f"{part.name} has no tensor {name}", "correct input_map or output_map"
        )
    if model.config.max_batch_size > part.config.max_batch_size:
        yield model.error(
            CONFIG_NAME,
            f"max_batch_size {model.config.max_batch_size} and the step {part.name} takes "
            f"{part.config.max_batch_size}",
            "lower it to that of the smallest step",
        )


def check_flow(model: Model) -> Iterator[Finding]:
    """Steps that nothing reaches, tensors that nobody makes, outputs that no step gives."""
    known = {tensor.name for tensor in model.config.input}
    waiting = list(model.config.ensemble_scheduling.step)
    while ready := [step for step in waiting if set(step.input_map.values()) <= known]:
        for step in ready:
            known |= set(step.output_map.values())
            waiting.remove(step)
    for step in waiting:
        missing = sorted(set(step.input_map.values()) - known)
        yield model.error(
            CONFIG_NAME,
            f"the step {step.model_name} is never reached: nothing makes {', '.join(missing)}",
            "map an earlier step's output to it",
        )
    for tensor in model.config.output:
        if tensor.name not in known:
            yield model.error(
                CONFIG_NAME, f"no step gives the output {tensor.name}", "map a step's output to it"
            )
    used = {name for s in model.config.ensemble_scheduling.step for name in s.input_map.values()}
    used |= {tensor.name for tensor in model.config.output}
    for step in model.config.ensemble_scheduling.step:
        if not used & set(step.output_map.values()):
            yield model.warning(
                CONFIG_NAME, f"nothing uses the step {step.model_name}", "remove it"
            )


def check_tensors(model: Model, by_name: Mapping[str, Model]) -> Iterator[Finding]:
    """Each tensor has the same type and dims in the ensemble and in every step that makes or takes it."""
    config = model.config
    ends = [*declared(config, config.input), *declared(config, config.output)]
    first = {spec.name: (model.name, spec) for spec in ends}
    for step in config.ensemble_scheduling.step:
        part = by_name.get(step.model_name)
        if part is None:
            continue
        for name, spec in mapped_tensors(part, step):
            owner, other = first.setdefault(name, (part.name, spec))
            if spec.data_type != other.data_type:
                ours, theirs = type_name(spec.data_type), type_name(other.data_type)
                yield model.error(
                    CONFIG_NAME,
                    f"{name} is {ours} in {part.name} and {theirs} in {owner}",
                    "make the types equal, Triton does not convert between steps",
                )
            if not fits(spec.dims, other.dims):
                yield model.error(
                    CONFIG_NAME,
                    f"{name} has dims {list(spec.dims)} in {part.name} and {list(other.dims)} in "
                    f"{owner}, the batch included",
                    "make the dims equal",
                )


def mapped_tensors(part: Model, step: Any) -> Iterator[tuple[str, TensorSpec]]:
    """The tensors of a step's model, each with the name that the ensemble gives it."""
    for tensors, names in (
        (part.config.input, step.input_map),
        (part.config.output, step.output_map),
    ):
        for spec in declared(part.config, tensors):
            if spec.name in names:
                yield names[spec.name], spec
