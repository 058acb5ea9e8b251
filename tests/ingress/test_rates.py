"""Rates per endpoint: bursts, shares and changes of configuration."""

from __future__ import annotations

import pytest

from ingress.rates import Rates
from tests.ingress.fakes import endpoint


def taken(rates: Rates, found, now: float, tries: int) -> int:
    return sum(rates.take(found, now) == 0 for _ in range(tries))


def test_a_burst_passes_and_then_the_rate():
    rates, found = Rates(10, 5), endpoint()
    assert taken(rates, found, 0.0, 20) == 5
    assert taken(rates, found, 1.0, 20) == 5  # ten came in, five fit
    assert taken(rates, found, 1.3, 20) == 3


def test_who_is_over_it_hears_when_the_next_one_passes():
    rates, found = Rates(0.1, 1), endpoint()
    assert rates.take(found, 0.0) == 0
    wait = rates.take(found, 0.0)
    assert wait == 10
    assert rates.take(found, float(wait)) == 0


def test_endpoints_do_not_spend_one_anothers_tokens():
    rates = Rates(1, 1)
    assert rates.take(endpoint(id="a"), 0.0) == rates.take(endpoint(id="b"), 0.0) == 0


def test_processes_share():
    assert taken(Rates(10, 8, processes=4), endpoint(), 0.0, 20) == 2


@pytest.mark.parametrize(("config", "first"), [
    ({"rate_per_second": 1, "rate_burst": 3}, 3), ({"rate_per_second": "1", "rate_burst": "2"}, 2), ({"rate_per_second": 0}, 20),
    ({"rate_per_second": -1}, 5), ({"rate_per_second": "many"}, 5), ({"rate_burst": True}, 5), ({"rate_burst": float("nan")}, 5),
])  # fmt: skip
def test_an_endpoints_own_rate_outweighs_the_settings(config, first):
    assert taken(Rates(10, 5), endpoint(config=config), 0.0, 20) == first


def test_a_new_configuration_counts_at_once_and_gives_no_full_bucket():
    rates = Rates(1, 10)
    assert taken(rates, endpoint(), 0.0, 10) == 10
    assert taken(rates, endpoint(config={"rate_per_second": 2, "rate_burst": 100}), 1.0, 20) == 2


def test_no_rate_is_no_limit():
    assert taken(Rates(0, 1), endpoint(), 0.0, 1_000) == 1_000
