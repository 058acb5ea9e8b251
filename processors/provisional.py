"""What is said of a change at once, before a model is asked: the analysis's own rules, beside what the last insight still bears out.

Law: asks nobody, claims nothing that a model said of something else, and is held against the snapshot like every finding. It is
never kept as the answer to its input, so that the question is still asked; its version lies between those of its snapshot's
predecessor and of its snapshot's own insight, so that it never stands above either.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from llm_gateway.prompt import Answer, Prompt
from processors.analyses.analysis import Analysis, Context, Finding, by_rules

GENERATION = 0
"""`Version.generation` of what is said provisionally; that of settings and promotions begins at 1."""
SHARE_ALONE = 0.1
"""Part of the rest that a question waits at least; in what is left the tenant's next common moment comes."""

T = TypeVar("T", bound=BaseModel)


@runtime_checkable
class Carries(Protocol):
    """An analysis that can speak without a model for a while; one that cannot is asked about at once."""

    def carried(self, by_rules: Finding, context: Context) -> Finding:
        """What its rules say now, with what `context.previous` said and the snapshot still bears out. Pure, never raises."""
        ...


async def provisional(analysis: Analysis, context: Context) -> tuple[Finding, bool]:
    """What can be said without a model, and whether that is all: True where no model would be asked.

    `analysis` must be one that `Carries`, and its prompts must have rules.
    """
    asked = False

    async def ask(prompt: Prompt[T], /) -> Answer[T]:
        nonlocal asked
        asked = True
        return by_rules(prompt)

    finding = await analysis.analyse(replace(context, ask=ask))
    if not asked:
        return finding, True
    assert isinstance(analysis, Carries)
    return analysis.carried(finding, context), False


def rest_of(tenant: str, now: float, longest: float) -> float:
    """Seconds until a tenant's questions are asked together: at most `longest`, at least a part of it.

    All questions of a tenant that wait have the same end, so that they can share calls; tenants' ends are spread.
    """
    least = longest * SHARE_ALONE
    period = longest - least
    phase = zlib.crc32(tenant.encode()) / 2**32 * period
    return least + period - (now + least - phase) % period
