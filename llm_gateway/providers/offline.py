"""The offline provider: an analysis's own rules, named as what they are.

Law: never passed off as a model: it calls itself `offline-rules` wherever an answer shows. It passes through the same
cache, limits and validation as a model's words: what the rules return becomes JSON text and is read back. No tokens are
counted, because no model read or wrote any.
"""

from __future__ import annotations

from infra.settings import Settings
from llm_gateway.providers.provider import Completed, Completion, Provider, QuestionRefused

MODEL = "offline-rules"


class OfflineProvider:
    """See `Provider`. Never waits."""

    name = "offline"
    key = ""

    async def complete(self, request: Completion) -> Completed:
        """What the rules say; a question that brings none is refused."""
        if request.rules is None:
            raise QuestionRefused("this prompt has no offline rules: set GROQ_API_KEY to ask a model")
        return Completed(text=request.rules(), model=MODEL)

    async def close(self) -> None:
        """Nothing to give up."""


class _Plugin:
    name = "offline"

    def model(self, settings: Settings) -> str:  # noqa: ARG002 -- the protocol's signature
        """Always the same."""
        return MODEL

    def open(self, settings: Settings) -> Provider:  # noqa: ARG002 -- the protocol's signature
        """See `ProviderPlugin.open`."""
        return OfflineProvider()


PLUGIN = _Plugin()
