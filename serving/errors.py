"""Everything that serving raises on purpose. Each message says what to do next."""


class ServingError(Exception):
    """Root of the errors of this package."""


class SettingsError(ServingError):
    """A flag or a FARSHORE_* variable cannot be used."""


class PortInUseError(ServingError):
    """A port that a server needs is taken."""


class UnservableError(ServingError):
    """The gateway has no endpoint for what this repository holds."""


class TritonInstallationError(ServingError):
    """This environment or machine cannot run the embedded tritonserver."""


class TritonStartError(ServingError):
    """tritonserver did not become ready."""


class TritonDiedError(ServingError):
    """tritonserver ended for good without having been asked to."""


class CorruptIndexError(ServingError):
    """A file of an index is missing, damaged or not what it should be."""


class DoesNotFitError(ServingError):
    """An index or a shard needs more memory than its node has."""


class GpuError(ServingError):
    """A GPU that was asked for cannot search an index."""


class PlanError(ServingError):
    """No layout does what was asked of a plan, or its sample cannot be used."""


class IndexBuildError(ServingError):
    """Vectors cannot be made into an index."""


class IndexBusyError(ServingError):
    """Another process has this shard open."""


class SwitchError(ServingError):
    """Another generation cannot be served in place of the one that is."""


class PlacementError(ServingError):
    """It is not said, or not possible, where shards run."""


class ClusterError(ServingError):
    """A Ray cluster is not there, or does not give what is asked of it."""


class ShardUnavailableError(ServingError):
    """A replica of a shard does not answer."""


class ShardFailedError(ServingError):
    """A replica of a shard refuses what it was asked."""


class IndexUnavailableError(ServingError):
    """No shard of the index answers."""


class OtherSpaceError(ServingError):
    """The index holds vectors of another encoder than the one that is served."""


class IndexReadOnlyError(ServingError):
    """This gateway does not take writes."""


class NoIndexError(ServingError):
    """This gateway serves no index."""


class RequestError(ServingError):
    """The client must change its request: `param` names the field, `code` the reason."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class InvalidRequestError(RequestError):
    """A field or a header of the request is refused."""


class ModelNotFoundError(RequestError):
    """The request names a model that is not served here."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model", code="model_not_found")


class BodyTooLargeError(RequestError):
    """The request's body is over the limit."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="body_too_large")


class BodyTooSlowError(RequestError):
    """The request's body did not arrive within the deadline."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="body_too_slow")


class ModelFailedError(ServingError):
    """The model answered with an error, or with something that is no embedding."""


class ModelUnavailableError(ServingError):
    """Triton does not answer for the model."""


class DeadlineExceededError(ServingError):
    """The model did not answer in time."""
