import pytest

from serving.errors import SettingsError
from serving.gateway.settings import Settings, read_settings


def test_without_flags_or_variables_the_defaults_hold():
    assert read_settings({"PATH": "/bin"}) == Settings()


def test_a_variable_replaces_a_default_and_a_flag_replaces_a_variable():
    environment = {"FARSHORE_PORT": "9000", "FARSHORE_DEADLINE_S": "2.5"}
    settings = read_settings(environment, {"port": 9001, "deadline_s": None})
    assert (settings.port, settings.deadline_s) == (9001, 2.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("PORT", "70000"), ("DEADLINE_S", "0"), ("MAX_TEXTS", "-1")],
)
def test_an_unusable_value_is_named_with_the_variable_to_set(name: str, value: str):
    with pytest.raises(SettingsError, match=f"{value}.*FARSHORE_{name}"):
        read_settings({f"FARSHORE_{name}": value})
