"""What a client sees of an error: one table of HTTP statuses and OpenAI's error object."""

from http import HTTPStatus

import orjson

from serving.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    DeadlineExceededError,
    IndexReadOnlyError,
    IndexUnavailableError,
    InvalidRequestError,
    ModelFailedError,
    ModelNotFoundError,
    ModelUnavailableError,
    NoIndexError,
    OtherSpaceError,
    RequestError,
    ServingError,
    ShardFailedError,
    ShardUnavailableError,
)

HTTP_STATUS: dict[type[ServingError], HTTPStatus] = {
    InvalidRequestError: HTTPStatus.BAD_REQUEST,
    ModelNotFoundError: HTTPStatus.NOT_FOUND,
    BodyTooSlowError: HTTPStatus.REQUEST_TIMEOUT,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    IndexReadOnlyError: HTTPStatus.FORBIDDEN,
    NoIndexError: HTTPStatus.NOT_FOUND,
    OtherSpaceError: HTTPStatus.CONFLICT,
    ModelFailedError: HTTPStatus.BAD_GATEWAY,
    ShardFailedError: HTTPStatus.BAD_GATEWAY,
    ModelUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    IndexUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    ShardUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceededError: HTTPStatus.GATEWAY_TIMEOUT,
}

RETRY_AFTER_S = "1"  # a restarted Triton is ready after about three seconds


def http_status(error: ServingError) -> HTTPStatus:
    """The status of the error's class, 500 for one that the table does not know."""
    return HTTP_STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)


def error_reply(error: ServingError) -> tuple[HTTPStatus, dict[str, str], bytes]:
    """The status, the extra headers and the body that answer an error."""
    status = http_status(error)
    headers = {"Retry-After": RETRY_AFTER_S} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    param, code = (error.param, error.code) if isinstance(error, RequestError) else (None, None)
    return status, headers, error_body(status, str(error), param, code)


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> bytes:
    """OpenAI's error object, which its clients turn into exceptions with a readable message."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return orjson.dumps({"error": error})
