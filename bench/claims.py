"""What a provider claims about records, and how much of it the records bear out: the same questions as in production.

Asks the provider directly, without the gateway's cache and budgets, which need servers and do not change an answer.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from bench.clean_records import TODAY, Clean
from infra.settings import Settings
from llm_gateway.models import facts_of as model_facts
from llm_gateway.prompt import Answer, Prompt, T
from llm_gateway.providers.provider import Completion, Message, ProviderFailure
from llm_gateway.routing import Route, chosen, route
from llm_gateway.shape import shape_of
from llm_gateway.validation import InvalidOutput, read
from processors.analyses import lead_intel, requirements
from processors.analyses.analysis import Analysis, Context
from processors.grounding import ground
from schemas.insight import LeadIntel, Requirements, Usage
from schemas.record import Note, RecordSnapshot

SEED = 3
_WRITTEN = (
    "Thanks for the call. We need single sign-on with Okta and an interface to SAP. The budget is about 60,000 EUR this year.",
    "Spoke with the CFO: budget was reduced to 45,000 EUR. Go-live has to be by 2027-03-01. They would like a pilot first.",
    "Data must be hosted in the EU. A mobile app would be nice to have. Who takes part in the workshop?",
)


class Direct:
    """One provider, asked without a gateway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._route: Route = route(settings)
        self._structured = model_facts(self._route.model).structured
        self.unusable = 0

    async def ask(self, prompt: Prompt[T], /) -> Answer[T]:
        """One attempt; raises what the provider and the validation raise."""
        shape, rules = shape_of(prompt.answer), prompt.rules
        completed = await self._route.provider.complete(
            Completion(
                model=self._route.model,
                messages=(
                    Message("system", prompt.system + shape.told(self._structured)),
                    Message("user", prompt.user),
                ),
                response_format=shape.response_format(self._structured),
                max_output_tokens=prompt.max_output_tokens,
                temperature=prompt.temperature,
                timeout=self._settings.model_timeout_seconds,
                rules=(lambda: rules(prompt.facts).model_dump_json()) if rules else None,
            )
        )
        value = read(completed, prompt.answer)
        return Answer(
            value, completed.model, self._route.provider.name, Usage(), cached=False, prompt_version=prompt.version
        )

    async def close(self) -> None:
        """Give up connections."""
        await self._route.provider.close()


def _records(count: int) -> list[RecordSnapshot]:
    clean = Clean(SEED)
    found: list[RecordSnapshot] = []
    while len(found) < count:
        record = clean.record()
        if record.object == "company":
            continue
        notes = tuple(
            Note(
                id=str(i),
                kind="email" if i == 0 else "note",
                at=record.modified_at - timedelta(days=9 - 3 * i),
                text=text,
            )
            for i, text in enumerate(_WRITTEN)
        )
        found.append(record.model_copy(update={"notes": notes}))
    return found


async def _claims(settings: Settings, count: int) -> dict[str, Any]:
    direct = Direct(settings)
    made = kept = unusable = 0
    plugins: tuple[Analysis, ...] = (lead_intel.PLUGIN, requirements.PLUGIN)
    try:
        for record in _records(count):
            for plugin in plugins:
                try:
                    finding = await plugin.analyse(Context(record, None, direct.ask, (), TODAY))
                except (InvalidOutput, ProviderFailure):
                    unusable += 1
                    continue
                grounded = ground(finding.payload, record).payload
                for before, counts in ((finding.payload, "made"), (grounded, "kept")):
                    claims = (
                        len(before.factors)
                        if isinstance(before, LeadIntel)
                        else len(before.items)
                        if isinstance(before, Requirements)
                        else 0
                    )
                    made, kept = (made + claims, kept) if counts == "made" else (made, kept + claims)
    finally:
        await direct.close()
    return {
        "provider": chosen(settings),
        "claims": made,
        "claims_kept": round(kept / made, 4) if made else 0.0,
        "unusable_answers": unusable,
    }


def measure(settings: Settings, count: int = 40) -> dict[str, Any]:
    """Claims made about `count` records, and the share that grounding kept."""
    return asyncio.run(_claims(settings, count))
