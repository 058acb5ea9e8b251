"""Why a benchmark has no result."""

from __future__ import annotations


class BenchError(RuntimeError):
    """Nothing was measured, or what was measured does not count; the text says why."""
