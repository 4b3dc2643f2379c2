"""What can go wrong between a recipe and a repository. Each message says what to do next."""


class OptimizeError(Exception):
    """Base of everything that `python -m optimize` reports without a traceback."""


class RecipeError(OptimizeError):
    """The recipe cannot be read or asks for something unknown."""


class SourceError(OptimizeError):
    """The weights or the data cannot be had, or are not what the recipe pins."""


class ExportError(OptimizeError):
    """The exported graph is broken or does not answer like its source."""


class GateError(OptimizeError):
    """No variant passed the gate: nothing was packaged."""
