"""Answers that were given before: the same question of the same record is not asked twice.

Law: exact input or nothing: any difference in the question makes another entry. Entries are named and sealed under the
record's data key: without it nobody can open one, nor tell whether a guessed question was ever asked; two tenants, or
two records, never share one; and who erases a record's key erases its answers. Only validated answers are kept.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any

import orjson

from infra.keyring import DataKey, Undecryptable, open_sealed, seal
from llm_gateway.prompt import Caller, Prompt
from llm_gateway.render import canonical
from llm_gateway.shape import Shape

_PURPOSE = "llm.answers"
_NAMING = b"hookline llm answers: names of entries"
_DIGEST = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached answer."""

    text: str
    """The validated answer as JSON."""
    model: str
    provider: str
    cost_usd: float = 0.0
    """What it cost; what each use of it saves."""


def question(prompt: Prompt[Any], caller: Caller, *, provider: str, model: str, shape: Shape) -> bytes:
    """The digest that names a question; 32 bytes, the same in every process. Raises TypeError when facts are not JSON-able."""
    canonical_form = canonical(
        [
            *(1, caller.tenant, provider, model, prompt.name, prompt.version, prompt.system, prompt.user),
            *(shape.digest, prompt.max_output_tokens, prompt.temperature, prompt.facts),
        ]
    )
    return named(caller.key, canonical_form)


def entry_key(tenant: str, digest: bytes) -> str:
    """Where Redis keeps it: the name that `admit.lua` makes of what `core` tells it. For who only wants to know whether it is there."""
    return f"hookline:llm:a:{{{tenant}}}:{digest.hex()}"


def sealed(key: DataKey, digest: bytes, entry: Entry) -> bytes:
    """The entry as Redis keeps it."""
    plain = digest + orjson.dumps([entry.text, entry.model, entry.provider, entry.cost_usd])
    return seal(key, plain, purpose=_PURPOSE)


def opened(key: DataKey, digest: bytes, kept: bytes) -> Entry | None:
    """The answer, or None when it is not readable or was kept under another name: then it is asked anew."""
    try:
        plain = open_sealed(key, kept, purpose=_PURPOSE)
    except Undecryptable:
        return None
    if not hmac.compare_digest(plain[:_DIGEST], digest):
        return None
    return Entry(*orjson.loads(plain[_DIGEST:]))


def named(key: DataKey, canonical_form: bytes) -> bytes:
    """The digest that names what `canonical_form` says, under a key: 32 bytes, the same in every process."""
    return hmac.digest(hmac.digest(key.material, _NAMING, "sha256"), canonical_form, "sha256")
