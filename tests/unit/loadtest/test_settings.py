import pytest

from loadtest.errors import SettingsError
from loadtest.settings import make_settings

LOAD = {"url": "http://127.0.0.1:8080", "model": "m", "rate_per_s": 50, "duration_s": 30}


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080/"]
)
def test_a_loopback_address_is_accepted(url):
    assert make_settings(**LOAD | {"url": url}).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["http://example.com", "http://10.0.0.1:8080", "http://127.0.0.1.example.com", "127.0.0.1:80"],
)
def test_load_on_another_host_is_refused_as_an_attack(url):
    with pytest.raises(SettingsError, match="attack"):
        make_settings(**LOAD | {"url": url})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"duration_s": 4_000}, "--allow-long"),
        ({"rate_per_s": 0}, "above zero"),
        ({"rate_per_s": 1e7}, "lower the rate"),
        ({"arrivals": "bursty"}, "poisson"),
        ({"rate_per_s": "many"}, "rate_per_s"),
    ],
)
def test_an_unreasonable_load_is_refused_with_the_reason(change, reason):
    with pytest.raises(SettingsError, match=reason):
        make_settings(**LOAD | change)


def test_a_run_of_more_than_an_hour_can_be_asked_for():
    assert make_settings(**LOAD | {"duration_s": 4_000, "allow_long": True}).duration_s == 4_000
