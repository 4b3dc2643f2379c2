"""What can go wrong in a load test; every message says what to do next."""


class LoadtestError(Exception):
    """A load test could not run or its result cannot be used."""


class SettingsError(LoadtestError):
    """The load asked for is not one that this package sends."""


class QueriesError(LoadtestError):
    """The texts to send are missing or malformed."""


class StackError(LoadtestError):
    """The stack under test does not run, does not start or serves something else."""


class GeneratorError(LoadtestError):
    """The Locust process ended without a result."""


class ReportError(LoadtestError):
    """A report is missing, malformed or about another model."""
