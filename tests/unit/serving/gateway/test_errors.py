import json

import pytest

from serving import errors
from serving.gateway.errors import HTTP_STATUS, error_body, error_reply


def test_every_error_of_a_request_has_a_status():
    kinds = errors.RequestError.__subclasses__()
    assert kinds
    assert set(kinds) <= HTTP_STATUS.keys()


def test_a_client_s_error_is_openai_s_error_object():
    error = errors.InvalidRequestError("shorten it", param="input", code="too_long")
    status, headers, body = error_reply(error)
    assert (status, headers) == (400, {})
    assert json.loads(body) == {
        "error": {
            "message": "shorten it",
            "type": "invalid_request_error",
            "param": "input",
            "code": "too_long",
        }
    }


def test_an_unavailable_model_says_when_to_come_back():
    status, headers, body = error_reply(errors.ModelUnavailableError("see the log"))
    assert (status, headers) == (503, {"Retry-After": "1"})
    assert json.loads(body)["error"]["type"] == "server_error"


def test_an_error_that_the_table_does_not_know_is_the_server_s():
    status, _, _ = error_reply(errors.ServingError("surprise"))
    assert status == 500


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "invalid_request_error"), (503, "server_error")]
)
def test_the_type_says_whose_doing_it_is(status: int, kind: str):
    assert json.loads(error_body(status, "message"))["error"]["type"] == kind
