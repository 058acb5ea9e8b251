"""What every dialect owes us. A new one is in here by being in the folder, and must bring a signer of its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress import answers
from ingress.sources.source import Event, Ignored, Resync, Untranslatable
from schemas.dead_letter import kind_of
from schemas.delivery import Refusal
from tests.ingress import signers
from tests.ingress.fakes import NOW, delivery, endpoint, secret, sources
from tests.ingress.signers import Signed, refusal_of

SIGNERS: dict[str, list[Callable[[bytes], Signed]]] = {
    "hubspot": [signers.hubspot_v1, signers.hubspot_v2, signers.hubspot_v3],
    "standard_webhooks": [signers.standard],
    "custom": [signers.github, signers.stripe, signers.slack, signers.everything, signers.callout],
    "salesforce_pubsub": [],  # nobody may send it anything: the role fetches it; see tests/ingress/pubsub
    "salesforce": [],  # nothing is signed: the address is the secret; see test_salesforce.py and docs/security.md
}
CASES = [pytest.param(name, sign, id=f"{name}-{sign.__name__}") for name, made in SIGNERS.items() for sign in made]
BODIES = st.lists(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=3), min_size=1, max_size=3
).map(lambda events: json.dumps(events, ensure_ascii=False).encode("utf-8", "replace"))


CONFIGS = {"custom": {"preset": "salesforce_callout"}}


def place_of(name: str, signed: Signed, value: bytes | None = None):
    """An endpoint with this secret, or the one that was signed with."""
    return endpoint(name, secrets=(secret(signed.secret if value is None else value),), config=signed.config)


def changed_at(text: bytes, place: int, by: int) -> bytes:
    place %= len(text)
    return text[:place] + bytes([(text[place] + by) % 256]) + text[place + 1 :]


def test_every_source_has_its_signers_here():
    assert set(sources()) == set(SIGNERS)


@pytest.mark.parametrize(("name", "sign"), CASES)
@given(body=BODIES)
def test_what_is_signed_is_accepted(name, sign, body):
    signed = sign(body)
    assert refusal_of(sources()[name], signed.request, place_of(name, signed)) is None


@pytest.mark.parametrize(("name", "sign"), CASES)
@given(body=BODIES, place=st.integers(0, 10_000), by=st.integers(1, 255), data=st.data())
def test_any_single_changed_byte_is_refused(name, sign, body, place, by, data):
    """INVARIANT: nobody without the secret can change anything that is signed.

    If this fails, a man in the middle can alter what a customer's CRM tells us, or keep an old request alive.
    """
    signed = sign(body)
    verifier, found = sources()[name], place_of(name, signed)
    what = data.draw(
        st.sampled_from(
            ["body", "secret", "element", *signed.covered, *(["uri", "public"] if signed.covers_uri else [])]
        )
    )
    request = signed.request
    if what == "body":
        request = signed.with_(body=changed_at(body, place, by))
    elif what == "uri":
        request = signed.with_(target=changed_at(request.target, place, by))
    elif what == "public":
        request = signed.with_(public=changed_at(request.public, place, by))
    elif what == "element":
        header = request.headers.get(b"stripe-signature")
        if header is None:
            return
        # The last element is a v0 that nothing looks at; every byte of the time and of v1 counts.
        place %= header.index(b",v0=")
        request = signed.with_(headers={b"stripe-signature": changed_at(header, place, by)})
    elif what == "secret":
        if name == "standard_webhooks":  # base64 text: a change of the key itself, not of its spelling
            place, by = 6 + place % (len(signed.secret) - 7), 1
            changed = changed_at(signed.secret, place, by)
            if not changed[place : place + 1].isalnum():
                return
        else:
            changed = changed_at(signed.secret, place, by)
        found = place_of(name, signed, changed)
    else:
        request = signed.with_(headers={**request.headers, what: changed_at(request.headers[what], place, by)})
    assert refusal_of(verifier, request, found) in {Refusal.VERIFICATION_FAILED, Refusal.SIGNATURE_MISSING}


@pytest.mark.parametrize(("name", "sign"), CASES)
def test_a_body_cut_short_or_made_longer_is_refused(name, sign):
    signed = sign(b'[{"portalId":1}]')
    found = place_of(name, signed)
    for body in (b"", signed.request.body[:-1], signed.request.body + b" ", signed.request.body * 2):
        assert refusal_of(sources()[name], signed.with_(body=body), found) is Refusal.VERIFICATION_FAILED


@pytest.mark.parametrize(("name", "sign"), CASES)
def test_a_request_without_signature_is_refused(name, sign):
    signed = sign(b"[]")
    found = place_of(name, signed)
    assert refusal_of(sources()[name], signed.with_(headers={}), found) is Refusal.SIGNATURE_MISSING


@pytest.mark.parametrize(("name", "sign"), CASES)
def test_an_endpoint_without_a_secret_accepts_nobody(name, sign):
    """INVARIANT: an empty or example secret is one that everybody knows. If this fails, an endpoint without one takes forgeries."""
    for known in (
        b"",
        b"  ",
        b"changeme",
        b"<client secret>",
        b"your-client-secret",
        b"xxxxxxxxxxxx",
        b"whsec_",
        b"whsec_xxxx",
    ):
        try:
            signed = sign(b"[]", secret=known)
        except ValueError:  # base64 that is none
            signed = sign(b"[]")
        denied = sources()[name].verify(signed.request, place_of(name, signed, known), NOW)
        assert denied.refusal is Refusal.ENDPOINT_DISABLED
        assert "its secret does not count" in denied.detail
        assert known.strip() == b"" or known.decode() not in denied.detail
    denied = sources()[name].verify(signed.request, endpoint(name, secrets=(), config=signed.config), NOW)
    assert (denied.refusal, denied.detail) == (
        Refusal.ENDPOINT_DISABLED,
        "the endpoint has no secret, or none that our master keys open",
    )


@pytest.mark.parametrize(("name", "sign"), CASES)
def test_during_a_rotation_both_secrets_hold_and_later_only_the_new_one(name, sign):
    """INVARIANT: rotation without a lost delivery, and an end of the old secret. If this fails, one of the two is untrue."""
    older, newer = sign(b"[]"), sign(b"[]", secret=b"whsec_" + base64.b64encode(b"the-next-one-and-long-enough"))
    both = (
        secret(older.secret, until=timedelta(hours=1)),
        secret(newer.secret, since=timedelta(minutes=-1)),
    )
    after = (secret(older.secret, until=timedelta(0)), *both[1:])
    before = (both[0], secret(newer.secret, since=timedelta(seconds=1)))
    for secrets, expected in ((both, (None, None)), (after, (False, None)), (before, (None, False))):
        at = endpoint(name, secrets=secrets, config=older.config)
        for signed, holds in zip((older, newer), expected, strict=True):
            refusal = refusal_of(sources()[name], signed.request, at)
            assert refusal is (None if holds is None else Refusal.VERIFICATION_FAILED)


@pytest.mark.parametrize("name", SIGNERS)
@given(
    body=st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(lambda value: json.dumps(value).encode())
)
def test_translating_never_raises(name, body):
    """INVARIANT: whatever a body holds, it ends as events, drops or dead letters. If this fails, one body stops a partition."""
    for found in sources()[name].translate(delivery(body, name), endpoint(name, config=CONFIGS.get(name, {}))):
        assert isinstance(found, Event | Ignored | Resync | Untranslatable)


@pytest.mark.parametrize("name", [name for name, made in SIGNERS.items() if name != "salesforce_pubsub"])
@given(
    body=st.sampled_from([b"", b"{", b"[1]", b"<a/>", b'[{"id":{}}]', b'{"account":1}', b"[[]]"])
    | st.binary(max_size=60)
)
def test_what_a_sender_wrote_is_never_poison(name, body):
    """INVARIANT: a letter about a body is the account's. If this fails, one sender's nonsense stops the translator for everybody.

    Change events are left out: their frame is what our own role wrote.
    """
    for found in sources()[name].translate(delivery(body, name), endpoint(name, config=CONFIGS.get(name, {}))):
        if isinstance(found, Untranslatable):
            assert kind_of(found.cause) == "account"


@pytest.mark.parametrize("name", SIGNERS)
def test_a_made_secret_verifies_and_is_new_each_time(name):
    source = sources()[name]
    made = source.new_secret()
    assert made != source.new_secret()
    assert len(made) >= 32
    for sign in SIGNERS[name]:
        signed = sign(b"[]", secret=made)
        assert refusal_of(source, signed.request, place_of(name, signed)) is None


@pytest.mark.parametrize("name", SIGNERS)
@pytest.mark.parametrize("refusal", [each for each in Refusal if each is not Refusal.REPLAYED])  # that one is accepted
def test_every_refusal_has_an_answer_that_asks_for_another_try(name, refusal):
    status, _, body = sources()[name].refused(refusal, answers.STATUS[refusal])
    assert status >= 400
    assert refusal.encode() in body


@pytest.mark.parametrize("name", SIGNERS)
def test_acceptance_is_a_success(name):
    status, headers, _ = sources()[name].accepted()
    assert 200 <= status < 300
    assert dict(headers)[b"content-type"]
