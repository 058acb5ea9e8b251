"""Quotas that are nearly spent: counted with every question, and said in the log once a day.

Law: names a tenant and a quota, nobody else.
"""

from __future__ import annotations

from datetime import UTC, datetime

from infra import metrics
from infra.telemetry import log

_MOST = 100_000


class SoftLimits:
    """One per core."""

    def __init__(self, soft: float) -> None:
        """`soft`: the share of a quota from which on it warns."""
        self._soft = soft
        self._said: set[tuple[str, str, str]] = set()

    def passed(self, tenant: str, quotas: tuple[str, ...]) -> None:
        """A question was granted beyond these soft limits (`day:tokens`)."""
        today = datetime.now(UTC).date().isoformat()
        for quota in quotas:
            metrics.MODEL_QUOTA_WARNINGS.labels(quota).inc()
            if (tenant, quota, today) not in self._said:
                if len(self._said) > _MOST:
                    self._said.clear()
                self._said.add((tenant, quota, today))
                log("llm_gateway").warning("quota_nearly_spent", tenant=tenant, quota=quota, share=self._soft)
