from loadtest.cost import cost_of
from models.prices import find_price, load_prices


def test_the_cost_says_whether_the_rate_was_the_offer_or_the_limit():
    price = find_price(load_prices(), "aws-c7i.large")
    assert "not the limit" in cost_of(price, 49.9, 50.0).note
    assert "did not keep up" in cost_of(price, 30.0, 50.0).note


def test_nothing_served_has_no_cost_per_request():
    assert cost_of(find_price(load_prices(), "aws-c7i.large"), 0.0, 50.0) is None
