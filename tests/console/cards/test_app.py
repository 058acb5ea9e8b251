"""The app card's endpoint: whom it believes, what it gives, what it takes."""

from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import urlencode

import pytest
import sqlalchemy.exc
import structlog.testing

from console.cards.app import MAX_BODY
from console.cards.pace import Pace
from console.cards.refusals import CAUSES, Refused
from tests.console.cards.signed import APP, USER, Card, Directory, MemoryShelf, account
from tests.ingress.fakes import NOW, PORTAL, SECRET, endpoint, secret
from tests.ingress.signers import hubspot_v1, hubspot_v2

CONTACT = {"object_type": "0-1", "record": "51"}
FOUND = {"lead_intel": {"model": "rules", "payload": {"score": 78}}}


def card(**changes) -> Card:
    return Card(shelf=MemoryShelf({(PORTAL, "contact", "51"): FOUND}), **changes)


async def cause_of(answer, status: int) -> str:
    told = answer.json()
    assert answer.status_code == status, told
    assert set(told) == {"cause", "detail", "remedy"}
    assert answer.headers["cache-control"] == "no-store"
    return told["cause"]


async def test_a_signed_call_gets_the_records_insights() -> None:
    answer = await card().call("insight", CONTACT)

    assert (answer.status_code, answer.json()) == (200, {"insights": FOUND})
    assert answer.headers["cache-control"] == "no-store"


async def test_a_record_without_insight_is_no_error() -> None:
    assert (await card().call("insight", {**CONTACT, "record": "52"})).json() == {"insights": {}}


async def test_a_call_without_a_v3_signature_is_refused_whatever_the_endpoint_takes_of_webhooks() -> None:
    """INVARIANT: v1 covers no address, so it would let whoever saw one webhook name any portal."""
    body = json.dumps(CONTACT).encode()
    for weaker in (hubspot_v1(body), hubspot_v2(body, target=f"/cards/hubspot/insight?{urlencode(USER)}")):
        headers = {name.decode(): value.decode() for name, value in weaker.request.headers.items()}
        assert await cause_of(await card().call("insight", body, headers=headers), 401) == "SIGNATURE_MISSING"
    assert await cause_of(await card().call("insight", body, headers={}), 401) == "SIGNATURE_MISSING"


@pytest.mark.parametrize("part", ["portal", "user", "body", "path", "secret", "public address"])
async def test_nothing_that_is_signed_may_change(part) -> None:
    at = card()
    target = f"/cards/hubspot/insight?{urlencode(USER)}"
    body = json.dumps(CONTACT).encode()
    signing = {"headers": None}
    if part in {"portal", "user", "body", "path"}:
        from tests.console.cards.signed import headers_of

        signing = {"headers": headers_of(target, body)}
    other = "145883450"
    at.directory = Directory(
        {endpoint().id: endpoint(accounts=frozenset({PORTAL, f"hubspot:{other}"}))},
        {PORTAL: account(), f"hubspot:{other}": account(id=f"hubspot:{other}")},
    )
    if part == "portal":
        target = f"/cards/hubspot/insight?{urlencode({**USER, 'portalId': other})}"
    elif part == "user":
        target = f"/cards/hubspot/insight?{urlencode({**USER, 'userId': '8'})}"
    elif part == "body":
        body = json.dumps({**CONTACT, "record": "52"}).encode()
    elif part == "path":
        target = f"/cards/hubspot/feedback?{urlencode(USER)}"
    elif part == "secret":
        signing = {"secret": b"another"}
    else:
        signing = {"base": "https://elsewhere.example"}
    assert await cause_of(await at.call("insight", body, target=target, **signing), 401) == "VERIFICATION_FAILED"


async def test_a_call_counts_for_five_minutes() -> None:
    late, early = NOW - timedelta(minutes=5, seconds=1), NOW + timedelta(minutes=2)
    assert await cause_of(await card().call("insight", CONTACT, at=late), 401) == "STALE"
    assert await cause_of(await card().call("insight", CONTACT, at=early), 401) == "FROM_THE_FUTURE"


async def test_a_secret_counts_for_the_accounts_of_its_endpoint_alone() -> None:
    """INVARIANT: an app of another tenant, genuinely signed, opens nothing."""
    theirs = endpoint(
        id="theirs", tenant="other", secrets=(secret(b"the-secret-of-another-app"),), accounts=frozenset({PORTAL})
    )
    directory = Directory({**Directory().known, "theirs": theirs}, {PORTAL: account()})

    answer = await card(directory=directory).call("insight", CONTACT, secret=b"the-secret-of-another-app")

    assert await cause_of(answer, 401) == "VERIFICATION_FAILED"


@pytest.mark.parametrize(
    "directory",
    [
        Directory(accounts={}),
        Directory(known={}),
        Directory(known={"a": endpoint(enabled=False)}),
        Directory(known={"a": endpoint(accounts=frozenset())}),
        Directory(known={"a": endpoint(config={"app_id": "44"})}),
        Directory(known={"a": endpoint("standard_webhooks")}),
    ],
)
async def test_to_a_stranger_an_unknown_account_looks_like_a_bad_signature(directory) -> None:
    assert await cause_of(await card(directory=directory).call("insight", CONTACT), 401) == "VERIFICATION_FAILED"


@pytest.mark.parametrize(
    "query", ["", "portalId=", "portalId=x", f"portalId={USER['portalId']}&portalId=1", "&".join(["a=1"] * 30)]
)
async def test_an_address_that_names_no_single_portal_is_refused(query) -> None:
    answer = await card().call("insight", CONTACT, target=f"/cards/hubspot/insight?{query}")
    assert await cause_of(answer, 401) == "VERIFICATION_FAILED"


async def test_a_secret_being_rotated_and_escapes_in_the_address_hold() -> None:
    both = endpoint(
        secrets=(secret(b"the-next-secret-of-the-app"), secret(SECRET, until=timedelta(hours=1))),
        config={"app_id": APP},
    )
    user = {**USER, "userEmail": "d(r)*'!;,$:@example.com"}
    for each in (b"the-next-secret-of-the-app", SECRET):
        answer = await card(directory=Directory({both.id: both})).call("insight", CONTACT, user=user, secret=each)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b'{"object_type":"0-1"}', b'{"object_type":"0-1","record":51}',
        b'{"object_type":"0-1","record":"51","tenant":"other"}', b'{"object_type":"0-1","record":"../51"}',
        b'{"object_type":"0-5","record":"51"}', b'{"object_type":"2-77","record":"51"}', b"{" * 30_000,
    ],
)  # fmt: skip
async def test_a_body_that_is_no_question_is_refused_and_not_repeated(body) -> None:
    answer = await card().call("insight", body)
    assert await cause_of(answer, 422) == "BODY_INVALID"


async def test_a_large_body_is_refused_before_its_signature_is_looked_at() -> None:
    assert (
        await cause_of(
            await card().call("insight", b"x" * (MAX_BODY + 1), headers={"X-HubSpot-Signature-v3": "x"}), 413
        )
        == "BODY_TOO_LARGE"
    )


async def test_other_methods_are_refused() -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        assert await cause_of(await card().call("insight", CONTACT, method=method), 405) == "METHOD_NOT_ALLOWED"


async def test_feedback_goes_to_the_record_of_the_account_that_signed() -> None:
    at = card()

    for said in ({"vote": "up"}, {"vote": "down", "note": "  She left the company.\n"}):
        assert (await at.call("feedback", {**CONTACT, **said})).json() == {"saved": True}

    assert at.shelf.said == [
        (PORTAL, "contact", "51", "up", ""),
        (PORTAL, "contact", "51", "down", "She left the company."),
    ]


@pytest.mark.parametrize(
    "said", [{}, {"vote": "sideways"}, {"vote": "down", "note": "x" * 2_001}, {"vote": "up", "note": "\0"}]
)
async def test_feedback_that_is_none_is_refused(said) -> None:
    at = card()
    assert await cause_of(await at.call("feedback", {**CONTACT, **said}), 422) == "BODY_INVALID"
    assert at.shelf.said == []


async def test_one_accounts_flood_is_slowed_and_strangers_spend_nothing_of_it() -> None:
    at = card(pace=Pace(0.1, 2))
    for _ in range(5):
        await at.call("insight", CONTACT, secret=b"another")
    assert [(await at.call("insight", CONTACT)).status_code for _ in range(2)] == [200, 200]
    refused = await at.call("insight", CONTACT)
    assert await cause_of(refused, 429) == "TOO_MANY"
    assert 1 <= int(refused.headers["retry-after"]) <= 10


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (sqlalchemy.exc.OperationalError("select 'secret words'", {}, OSError()), 503, "TRY_LATER"),
        (Refused("RECORD_GONE"), 404, "RECORD_GONE"),
        (Refused("ACCOUNT_UNAVAILABLE"), 409, "ACCOUNT_UNAVAILABLE"),
        (KeyError("secret words"), 500, "BUG"),
    ],
)
async def test_what_fails_behind_it_is_a_named_refusal_and_neither_it_nor_the_rep_is_in_the_log(
    error, status, cause
) -> None:
    at = card()
    at.shelf.fails = error
    with structlog.testing.capture_logs() as logged:
        answer = await at.call("feedback", {**CONTACT, "vote": "down", "note": "secret words"})
    assert await cause_of(answer, status) == cause
    assert [entry["cause"] for entry in logged] == [cause]
    for private in ("secret words", USER["userEmail"], '"51"'):
        assert private not in answer.text
        assert private not in repr(logged)


def test_every_cause_says_what_to_do_next() -> None:
    for status, detail, remedy in CAUSES.values():
        assert 400 <= status < 600
        assert detail.endswith(".")
        assert remedy[-1] in ".?"


def test_the_pace_refills() -> None:
    pace = Pace(2.0, 2.0)
    assert [pace.take("a", 0.0) for _ in range(3)] == [0, 0, 1]
    assert pace.take("b", 0.0) == 0
    assert [pace.take("a", 1.0) for _ in range(3)] == [0, 0, 1]
