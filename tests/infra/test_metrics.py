from __future__ import annotations

import re
from pathlib import Path

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
