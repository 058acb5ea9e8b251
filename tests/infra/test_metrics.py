from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from infra import metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_lists_every_metric_as_the_code_has_it() -> None:
    """After a change of the catalogue: `.venv/bin/python -m infra.metrics > docs/metrics.md`."""
    assert PAGE.read_text() == metrics.page()


def test_names_are_prefixed_and_tell_their_unit() -> None:
    for metric in metrics.REGISTRY.collect():
        # What the whole field calls the same has the field's name.
        assert re.fullmatch(r"(hookline|gen_ai_client)_[a-z_]+", metric.name)
        if metric.type == "histogram":
            assert metric.name.endswith(("_seconds", "_messages", "_bytes", "_events", "_records", "_token_usage")), (
                metric.name
            )


def test_no_label_can_hold_a_customer() -> None:
    """INVARIANT: metrics are kept for long and seen by many; ids of tenants, records and people are not in them."""
    for collector in metrics.catalogue():
        assert not set(collector._labelnames) & {
            "tenant",
            "account",
            "record",
            "record_id",
            "user",
            "endpoint",
            "email",
            "id",
            "key",
        }


@given(st.lists(st.floats(0, 40) | st.sampled_from([0.001, 0.0025, 30.0, 31.0]), max_size=20))
def test_many_observations_at_once_are_as_many_one_by_one(amounts: list[float]) -> None:
    def seen(observed: metrics.Histogram) -> list[tuple[str, tuple[tuple[str, str], ...], float]]:
        found = [
            (each.name, tuple(each.labels.items()), each.value)
            for family in observed.collect()
            for each in family.samples
        ]
        return [each for each in found if not each[0].endswith("_created")]

    one, many = (metrics.Histogram("x_seconds", "x", ["of"], registry=CollectorRegistry(), buckets=(0.001, 0.0025, 1, 30)) for _ in range(2))  # fmt: skip
    many.labels("a").observe_many(amounts)
    for amount in amounts:
        one.labels("a").observe(amount)
    ours, theirs = seen(many), seen(one)
    assert [each[:2] for each in ours] == [each[:2] for each in theirs] or not amounts
    for mine, other in zip(ours, theirs, strict=False):
        assert abs(mine[2] - other[2]) < 1e-9
