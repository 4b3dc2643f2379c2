import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequestError, ModelNotFoundError, RequestError
from serving.gateway.validation import Rules, check_token_counts, validate

RULES = Rules(model="search", output_dim=384, max_tokens=256, max_texts=4, max_text_bytes=100)


def body(**fields: object) -> bytes:
    return json.dumps({"model": "search", "input": "hello"} | fields).encode()


def refusal(raw: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        validate(raw, RULES)
    return caught.value


def test_one_text_becomes_a_list_of_one():
    request = validate(body(input="hello"), RULES)
    assert request.texts == ["hello"]
    assert request.encoding_format == "float"
    assert request.truncate is False


def test_a_list_keeps_its_order_and_its_duplicates():
    assert validate(body(input=["b", "a", "b"]), RULES).texts == ["b", "a", "b"]


def test_fields_of_openai_that_change_nothing_are_accepted():
    validate(body(user="someone", dimensions=384, encoding_format="base64"), RULES)


def test_another_model_is_refused_with_the_name_of_the_served_one():
    with pytest.raises(ModelNotFoundError, match="set model to 'search'"):
        validate(body(model="text-embedding-3-small"), RULES)


def test_other_dimensions_are_refused_with_the_dimension_of_the_model():
    error = refusal(body(dimensions=256))
    assert error.param == "dimensions"
    assert "384" in str(error)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "input[0] is empty"),
        (" \n\t", "input[0] is empty"),
        ([], "empty list"),
        (["fine", ""], "input[1] is empty"),
        (["fine", "nul\0"], "input[1] holds a NUL"),
        (["fine", None], "input[1]: it is not a string"),
        (["fine", True], "input[1]: it is not a string"),
        ([1, 2, 3], "token ids are not accepted"),
        ([[1, 2], [3]], "token ids are not accepted"),
        (7, "a string or a list of strings"),
        (None, "a string or a list of strings"),
        ({"text": "a"}, "a string or a list of strings"),
        (["a"] * 5, "holds 5 texts and one request may hold 4"),
        (["fine", "ä" * 51], "input[1] has 102 bytes and a text may have 100"),
    ],
)
def test_an_unusable_input_is_refused_saying_which_text_and_why(value: object, words: str):
    error = refusal(body(input=value))
    assert isinstance(error, InvalidRequestError)
    assert error.param == "input"
    assert words in str(error)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"model": "search", "input": ', "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"model": "search", "input": "\xff"}', "not UTF-8 (byte 30)"),
        (b'{"model": "search", "input": "\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"model": "search", "input": NaN}', "not valid JSON"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(raw: bytes, words: str):
    assert words in str(refusal(raw))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"truncate": "true"}, "truncate"),
        ({"dimensions": "384"}, "dimensions"),
        ({"model": 3}, "model"),
        ({"user": 3}, "user"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(fields: dict[str, object], param: str):
    error = refusal(body(**fields))
    assert error.param == param
    assert param in str(error)


@pytest.mark.parametrize("field", ["model", "input"])
def test_a_missing_field_is_named(field: str):
    fields = json.loads(body())
    del fields[field]
    assert refusal(json.dumps(fields).encode()).param == field


def test_an_unknown_field_is_refused_with_the_fields_that_exist():
    error = refusal(body(inputs="typo"))
    assert (error.param, error.code) == ("inputs", "unknown_parameter")
    assert "input, model, encoding_format" in str(error)


def test_a_text_of_exactly_the_model_s_length_is_accepted():
    check_token_counts(np.array([3, 256], np.int32), max_tokens=256)


def test_a_text_over_the_model_s_length_is_refused_with_its_index_count_and_limit():
    with pytest.raises(InvalidRequestError, match=r"input\[1\] has 257 tokens .* reads 256"):
        check_token_counts(np.array([3, 257, 900], np.int32), max_tokens=256)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_by_texts_or_by_a_request_error(raw: bytes):
    with pytest.raises(RequestError):
        validate(raw, RULES)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_any_json_input_is_answered_by_texts_or_by_a_request_error(value: object):
    try:
        request = validate(body(input=value), RULES)
    except RequestError:
        return
    assert request.texts == ([value] if isinstance(value, str) else value)
