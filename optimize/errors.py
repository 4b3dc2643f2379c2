"""What can go wrong between a recipe and a repository. Each message says what to do next."""


class OptimizeError(Exception):
    """Base of everything that `python -m optimize` reports without a traceback."""


class RecipeError(OptimizeError):
    """The recipe cannot be read or asks for something unknown."""


class SourceError(OptimizeError):
    """The weights or the data cannot be had, or are not what the recipe pins."""


class ExportError(OptimizeError):
    """The exported graph is broken or does not answer like its source."""


class VariantError(OptimizeError):
    """None of a recipe's variants can be made."""


class GateError(OptimizeError):
    """No variant passed the gate: nothing was packaged."""


class EvidenceError(OptimizeError):
    """What is to be recorded of a model (its profile, its bill of materials) cannot be made from this."""


class SigningError(OptimizeError):
    """There is no private key to sign with, or it cannot be used."""


class TrainingError(OptimizeError):
    """A model cannot be trained from this data, or its training failed."""


class QuantizeError(OptimizeError):
    """A graph cannot be quantized or fused like this."""


class PackageError(OptimizeError):
    """A repository for this target cannot be made of this variant."""


class EngineError(OptimizeError):
    """A TensorRT engine cannot be built, or is for another target."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem, self.fix = problem, fix

    def __str__(self) -> str:
        return f"{self.problem}: {self.fix}"


class TuneError(OptimizeError):
    """The serving parameters cannot be searched, or a trial of the search failed."""


class LintError(OptimizeError):
    """A repository has errors that would stop a server."""
