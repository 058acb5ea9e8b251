"""Which secrets count, remembered between the moments at which that changes."""

from __future__ import annotations

import hmac
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from infra.accounts import Secret
from ingress.secrets import keyed_of, secrets_of
from tests.ingress.fakes import NOW, endpoint

minutes = st.integers(-5, 5).map(lambda number: NOW + timedelta(minutes=number))


@given(
    windows=st.lists(st.tuples(minutes, st.none() | minutes), max_size=4),
    asked=st.lists(st.tuples(minutes, st.sampled_from([0, -1, 1])), min_size=1, max_size=12),
)
def test_at_every_moment_those_count_whose_window_is_open(windows, asked):
    """INVARIANT: in whatever order it is asked. If this fails, an expired secret goes on opening the door."""
    secrets = tuple(
        Secret(since, until, b"a-long-enough-value-%d" % place) for place, (since, until) in enumerate(windows)
    )
    found = endpoint(secrets=secrets)
    for moment, off in asked:
        now = moment + timedelta(microseconds=off)
        expected = [secret.value for secret in secrets if secret.valid_at(now)]
        assert secrets_of(found, now) == expected
        digests = [hmac.digest(value, b"m", "sha256") for value in expected]
        assert [keyed.digest(b"m") for keyed in keyed_of(found, now)] == digests
