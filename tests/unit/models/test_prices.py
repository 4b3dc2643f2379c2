import pytest

from models.prices import PricesError, find_price, load_prices, usd_per_million

OWN = """
- {name: my-server, provider: us, region: cellar, vcpu: 8, memory_gib: 64, usd_per_hour: 0.36,
   date: 2026-05-01, source: "https://example.com/invoice"}
- {name: aws-c7i.large, provider: AWS, region: us-east-1, vcpu: 2, memory_gib: 4,
   usd_per_hour: 0.05, date: 2026-05-01, source: "https://example.com/contract"}
"""


def test_a_million_requests_cost_the_hours_they_take():
    # 100/s are 360,000 in an hour: a million take 2.7778 hours.
    assert usd_per_million(0.36, 100) == pytest.approx(1.0)


def test_every_price_in_the_list_has_a_date_and_a_source():
    prices = load_prices()
    assert {"aws-c7i.large", "aws-g6.xlarge", "gcp-g2-standard-4"} <= prices.keys()
    assert all(
        price.source.startswith("https://") and price.usd_per_hour > 0 for price in prices.values()
    )


def test_own_entries_are_added_and_win(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(OWN)
    prices = load_prices(path)
    assert find_price(prices, "my-server").usd_per_hour == 0.36
    assert find_price(prices, "aws-c7i.large").usd_per_hour == 0.05
    assert "aws-g5.xlarge" in prices


def test_an_unknown_instance_lists_the_known_ones():
    with pytest.raises(PricesError, match=r"aws-c7i\.large.*gcp-n2-standard-2.*--prices"):
        find_price(load_prices(), "aws-c7i.lrage")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("- {name: x}", "provider"), ("a: [", "not YAML"), ("nonsense", "content")],
)
def test_a_malformed_price_file_is_refused_with_the_field(tmp_path, content, reason):
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(PricesError, match=reason):
        load_prices(path)


def test_a_missing_price_file_is_named(tmp_path):
    with pytest.raises(PricesError, match="no price file"):
        load_prices(tmp_path / "none.yaml")
