from __future__ import annotations

import pytest

from infra.plugins import load
from infra.settings import Settings
from llm_gateway import routing
from llm_gateway.providers.offline import MODEL, PLUGIN
from llm_gateway.providers.provider import Completion, Message, ProviderPlugin, QuestionRefused

SETTINGS = Settings(_env_file=None)


def request(**changes: object) -> Completion:
    return Completion("offline-rules", (Message("user", "u"),), {}, 10, 0.0, 1.0, **changes)  # type: ignore[arg-type]


async def test_it_calls_itself_what_it_is_and_counts_no_tokens():
    completed = await PLUGIN.open(SETTINGS).complete(request(rules=lambda: '{"a": 1}'))
    assert (completed.text, completed.model) == ('{"a": 1}', "offline-rules")
    assert (completed.input_tokens, completed.output_tokens) == (0, 0)


async def test_a_question_without_rules_is_refused():
    with pytest.raises(QuestionRefused, match="GROQ_API_KEY"):
        await PLUGIN.open(SETTINGS).complete(request())


def test_every_provider_is_found_by_being_there():
    assert set(load("llm_gateway.providers", ProviderPlugin)) == {"groq", "offline"}  # type: ignore[type-abstract]


@pytest.mark.parametrize(
    ("changes", "provider", "model"),
    [
        ({}, "offline", MODEL),
        ({"groq_api_key": "k"}, "groq", "openai/gpt-oss-120b"),
        ({"groq_api_key": "k", "model": "openai/gpt-oss-20b"}, "groq", "openai/gpt-oss-20b"),
        ({"groq_api_key": "k", "provider": "offline"}, "offline", MODEL),
    ],
)
async def test_the_settings_choose(changes: dict[str, str], provider: str, model: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("GROQ_API_KEY", "GROQ_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    route = routing.route(Settings(**changes, _env_file=None))  # type: ignore[arg-type]
    assert (route.provider.name, route.model) == (provider, model)
    await route.provider.close()
