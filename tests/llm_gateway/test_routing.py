"""Which models are asked, by rules of a file; and what is said of a file that cannot hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from infra.settings import Settings, SettingsError
from llm_gateway import pricing, routing
from llm_gateway.prompt import Judgement
from llm_gateway.providers.groq import GroqProvider
from llm_gateway.routing import Traits

FILE = """
accept_grounded = 0.8
[tiers]
cheap = ["openai/gpt-oss-20b"]
strong = ["openai/gpt-oss-120b", {provider = "second", model = "openai/gpt-oss-120b"}]
[providers.second]
base_url = "http://127.0.0.1:9/"
key_variable = "SECOND_API_KEY"
[[rules]]
plans = ["gold"]
tiers = ["strong"]
[[rules]]
analyses = ["lead_intel"]
max_input_tokens = 1000
languages = ["en", "de"]
tiers = ["cheap", "strong"]
[[rules]]
lanes = ["bulk"]
tiers = ["cheap"]
[[rules]]
tiers = ["strong"]
"""


@pytest.fixture(autouse=True)
def _prices() -> Iterator[None]:
    """Prices are the process': none stay."""
    yield
    pricing.hold({}, {})


def groq(**changes: object) -> Settings:
    return Settings(provider="groq", groq_api_key=SecretStr("k"), _env_file=None, **changes)  # type: ignore[arg-type]


def opened(tmp_path: Path, text: str = FILE, **changes: object) -> routing.Routing:
    path = tmp_path / "routes.toml"
    path.write_text(text)
    return routing.routing(groq(routes=str(path), **changes))


def names(plan: tuple[routing.Tier, ...]) -> list[list[str]]:
    return [[f"{route.provider.name}/{route.model}" for route in tier] for tier in plan]


CHEAP = ["groq/openai/gpt-oss-20b"]
STRONG = ["groq/openai/gpt-oss-120b", "second/openai/gpt-oss-120b"]


@pytest.mark.parametrize(
    ("traits", "asked"),
    [
        (Traits("lead_intel", 900, "de"), [CHEAP, STRONG]),
        (Traits("lead_intel", 1001, "de"), [STRONG]),
        (Traits("lead_intel", 900, "ja"), [STRONG]),
        (Traits("lead_intel", 900, "de", plan="gold"), [STRONG]),
        (Traits("requirements", 900, "de", lane="bulk"), [CHEAP]),
        (Traits("requirements", 900, "de"), [STRONG]),
    ],
)
async def test_the_first_rule_that_holds_names_the_tiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traits: Traits, asked: list[list[str]]
):
    monkeypatch.setenv("SECOND_API_KEY", "s")
    assert names(opened(tmp_path).plan(traits, judged=True)) == asked


async def test_without_a_judge_the_last_tier_is_asked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECOND_API_KEY", "s")
    assert names(opened(tmp_path).plan(Traits("lead_intel", 9, "en"), judged=False)) == [STRONG]


async def test_an_answer_is_taken_when_it_is_grounded_and_confident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECOND_API_KEY", "s")
    found = opened(tmp_path)
    assert found.accepts(Judgement(0.8, 0.6))
    assert not found.accepts(Judgement(0.79, 1.0))
    assert not found.accepts(Judgement(1.0, 0.59))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FILE, "SECOND_API_KEY is not set"),
        (FILE.replace('tiers = ["cheap"]', 'tiers = ["tiny"]'), "rules.2 names the tier tiny; there are cheap, strong"),
        (
            FILE.replace("openai/gpt-oss-20b", "llama-3.1-8b-instant"),
            "retired it on 2026-08-16: take openai/gpt-oss-20b",
        ),
        (FILE.replace('provider = "second"', 'provider = "third"'), "the provider third, which is not in"),
        (FILE + '[[rules]]\ntiers = ["cheap"]\n', "rules.3 has no condition"),
        (FILE.rpartition("[[rules]]")[0], "the last rule must have no condition"),
        (FILE.replace("max_input_tokens = 1000", "max_tokens = 1000"), "rules.1.max_tokens"),
        (FILE.replace('["en", "de"]', '["English"]'), "rules.1.languages.0"),
        ("tiers = [", "is no TOML"),
        (FILE + "[models]\nbest = []", "models.best is empty"),
        (FILE + '[models]\nbest = ["best"]', "models.best names the tier best; there are cheap, strong"),
        (FILE + '[models]\nbest = "rule"', "models.best"),
        (FILE + '[prices."third/m"]\ninput = 1\noutput = 1\nsince = 2026-11-01', 'prices."third/m" names no provider'),
        (FILE + '[prices."second/m"]\ninput = 1\noutput = 1', "prices.second/m.since: Field required"),
        (FILE + '[prices."second/m"]\ninput = -1\noutput = 1\nsince = 2026-11-01', "prices.second/m.input"),
        (
            FILE.replace('"SECOND_API_KEY"', '"SECOND_API_KEY"\npriced_as = "nobody"'),
            "priced_as is nobody, which genai-prices",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_place(tmp_path: Path, text: str, said: str):
    with pytest.raises(SettingsError, match="HOOKLINE_ROUTES") as raised:
        opened(tmp_path, text)
    assert said in str(raised.value)


async def test_by_default_simple_input_goes_to_the_cheap_model_first():
    found = routing.routing(groq())
    assert names(found.plan(Traits("lead_intel", 500), judged=True)) == [CHEAP, STRONG[:1]]
    assert names(found.plan(Traits("lead_intel", 5_000), judged=True)) == [STRONG[:1]]
    assert found.main.model == "openai/gpt-oss-120b"


@pytest.mark.parametrize("changes", [{"model": "my/own"}, {"model_cheap": ""}])
async def test_another_model_or_no_cheap_one_leaves_one_model(changes: dict[str, str]):
    found = routing.routing(groq(**changes))
    assert len(found.everywhere) == 1
    assert found.main.model == changes.get("model", "openai/gpt-oss-120b")


def test_the_offline_rules_know_no_tiers():
    found = routing.routing(Settings(provider="offline", _env_file=None))
    assert names(found.plan(Traits("lead_intel", 1), judged=True)) == [["offline/offline-rules"]]


async def test_the_file_gives_names_to_the_servers_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECOND_API_KEY", "k")
    path = tmp_path / "routes.toml"
    path.write_text(FILE + '[models]\nbest = ["strong"]\nthrifty = ["cheap", "strong"]\nauto = "rules"\n')
    settings = groq(routes=str(path))
    main = routing.route(settings).provider
    opened_: list[tuple[str, str, str]] = []

    def open_(key: str, url: str, name: str) -> GroqProvider:
        opened_.append((key, url, name))
        return GroqProvider(key, url, name=name)

    served = routing.served(settings, main, open_)
    assert served is not None
    assert opened_ == [("k", "http://127.0.0.1:9/", "second")]
    assert names(served.models["thrifty"] or ()) == [CHEAP, STRONG]
    assert names(served.models["best"] or ()) == [STRONG]
    assert served.models["auto"] is None
    assert routing.served(groq(), main, open_) is None


OWN_PRICE = '[prices."second/openai/gpt-oss-120b"]\ninput = 0.3\noutput = 0.9\nsince = 2026-11-01\n'


async def test_a_routed_model_without_a_price_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECOND_API_KEY", "s")
    with capture_logs() as said:
        opened(tmp_path)
    assert [line["model"] for line in said if line["event"] == "model_without_price"] == ["second/openai/gpt-oss-120b"]


@pytest.mark.parametrize("limit", ["model_dollars_per_day", "model_dollars_per_month", "user_dollars_per_day"])
async def test_dollars_are_not_limited_beside_a_model_that_nobody_knows_the_price_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
):
    """INVARIANT: if this fails, a quota in dollars is set and holds for nothing."""
    monkeypatch.setenv("SECOND_API_KEY", "s")
    with pytest.raises(SettingsError, match=f"HOOKLINE_{limit.upper()} cannot be kept") as raised:
        opened(tmp_path, **{limit: 5.0})
    assert 'say one in HOOKLINE_ROUTES: [prices."second/openai/gpt-oss-120b"]' in str(raised.value)
    with pytest.raises(SettingsError, match="groq/my/own has no price"):
        routing.routing(groq(model="my/own", **{limit: 5.0}))


@pytest.mark.parametrize(
    ("text", "price"),
    [
        (FILE + OWN_PRICE, (0.3, 0.3, 0.9)),
        (FILE.replace('"SECOND_API_KEY"', '"SECOND_API_KEY"\npriced_as = "groq"'), (0.15, 0.075, 0.6)),
    ],
)
async def test_the_file_says_what_another_provider_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, price: tuple[float, float, float]
):
    monkeypatch.setenv("SECOND_API_KEY", "s")
    opened(tmp_path, text, model_dollars_per_day=5.0)
    found = pricing.price_of("second", "openai/gpt-oss-120b")
    assert found is not None
    assert (found.input, found.cached_input, found.output) == price


async def test_a_rule_that_can_hold_for_no_client_of_the_server_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECOND_API_KEY", "k")
    path = tmp_path / "routes.toml"
    for names_, told in (('best = ["strong"]', []), ('auto = "rules"', ["rules.1"])):
        path.write_text(FILE + f"[models]\n{names_}\n")
        settings = groq(routes=str(path))
        with capture_logs() as said:
            routing.served(settings, routing.route(settings).provider, lambda k, u, n: GroqProvider(k, u, name=n))
        assert [line["rule"] for line in said if line["event"] == "rule_never_holds"] == told


async def test_what_is_wrong_with_a_provider_of_the_file_is_set_right_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECOND_API_KEY", "s")
    [second] = [each.provider for each in opened(tmp_path, FILE).everywhere if each.provider.name == "second"]
    assert isinstance(second, GroqProvider)
    assert second._place.where == "[providers.second] of HOOKLINE_ROUTES"
