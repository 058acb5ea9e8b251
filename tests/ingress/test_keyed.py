"""HMAC with its key worked in beforehand is HMAC."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from ingress.keyed import Keyed


@given(key=st.binary(max_size=200), messages=st.lists(st.binary(max_size=300), max_size=3))
def test_every_digest_is_the_librarys(key, messages):
    """INVARIANT: any other digest refuses genuine requests, or believes forged ones."""
    keyed = Keyed(key)
    for message in [*messages, *messages]:
        assert keyed.digest(message) == hmac.digest(key, message, "sha256")


def test_keys_around_a_block_of_the_digest():
    for length in (0, 1, 63, 64, 65, 128):
        key = bytes(range(length))
        assert Keyed(key).digest(b"m") == hmac.digest(key, b"m", "sha256")
