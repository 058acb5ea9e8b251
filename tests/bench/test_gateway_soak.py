"""When a soak of the gateway's server has failed."""

from __future__ import annotations

import pytest

from bench.gateway.__main__ import steady


@pytest.mark.parametrize(
    ("memory", "held"),
    [
        ([], True),
        ([120.0, 135.0, 138.0, 139.0, 139.1, 139.0, 139.1, 139.1, 139.2, 139.1], True),
        ([120.0, 135.0, 138.0, 139.0, 140.0, 141.0, 142.0, 143.0, 144.0, 145.0], False),
        ([151.0] * 10, False),
    ],
)
def test_a_soak_fails_above_150_mib_or_when_memory_grows_after_it_is_warm(memory: list[float], held: bool) -> None:
    assert steady(memory) is held
