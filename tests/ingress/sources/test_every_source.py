"""What every dialect owes us. A new one is in here by being in the folder, and must bring a signer of its own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress import answers
from ingress.sources.source import Event, Ignored, Untranslatable
from schemas.delivery import Refusal
from tests.ingress import signers
from tests.ingress.fakes import NOW, delivery, endpoint, secret, sources
from tests.ingress.signers import Signed

SIGNERS: dict[str, list[Callable[[bytes], Signed]]] = {
    "hubspot": [signers.hubspot_v1, signers.hubspot_v2, signers.hubspot_v3],
    "standard_webhooks": [signers.standard],
    "salesforce": [],  # nothing is signed: the address is the secret; see test_salesforce.py and docs/security.md
}
CASES = [pytest.param(name, sign, id=f"{name}-{sign.__name__}") for name, made in SIGNERS.items() for sign in made]
BODIES = st.lists(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=3), min_size=1, max_size=3
).map(lambda events: json.dumps(events, ensure_ascii=False).encode("utf-8", "replace"))


def changed_at(text: bytes, place: int, by: int) -> bytes:
    place %= len(text)
    return text[:place] + bytes([(text[place] + by) % 256]) + text[place + 1 :]


def test_every_source_has_its_signers_here():
    assert set(sources()) == set(SIGNERS)


@pytest.mark.parametrize(("name", "sign"), CASES)
@given(body=BODIES)
def test_what_is_signed_is_accepted(name, sign, body):
    signed = sign(body)
    found = endpoint(name, secrets=(secret(signed.secret),))
    assert sources()[name].verify(signed.request, found, NOW) is None


@pytest.mark.parametrize(("name", "sign"), CASES)
@given(body=BODIES, place=st.integers(0, 10_000), by=st.integers(1, 255), data=st.data())
def test_any_single_changed_byte_is_refused(name, sign, body, place, by, data):
    """INVARIANT: nobody without the secret can change anything that is signed.

    If this fails, a man in the middle can alter what a customer's CRM tells us, or keep an old request alive.
    """
    signed = sign(body)
    verifier, found = sources()[name], endpoint(name, secrets=(secret(signed.secret),))
    what = data.draw(
        st.sampled_from(["body", "secret", *signed.covered, *(["uri", "public"] if signed.covers_uri else [])])
    )
    request = signed.request
    if what == "body":
        request = signed.with_(body=changed_at(body, place, by))
    elif what == "uri":
        request = signed.with_(target=changed_at(request.target, place, by))
    elif what == "public":
        request = signed.with_(public=changed_at(request.public, place, by))
    elif what == "secret":
        if name == "standard_webhooks":  # base64 text: a change of the key itself, not of its spelling
            place, by = 6 + place % (len(signed.secret) - 7), 1
            changed = changed_at(signed.secret, place, by)
            if not changed[place : place + 1].isalnum():
                return
        else:
            changed = changed_at(signed.secret, place, by)
        found = endpoint(name, secrets=(secret(changed),))
    else:
        request = signed.with_(headers={**request.headers, what: changed_at(request.headers[what], place, by)})
    assert verifier.verify(request, found, NOW) in {Refusal.VERIFICATION_FAILED, Refusal.SIGNATURE_MISSING}


@pytest.mark.parametrize(("name", "sign"), CASES)
def test_a_body_cut_short_or_made_longer_is_refused(name, sign):
    signed = sign(b'[{"portalId":1}]')
    found = endpoint(name, secrets=(secret(signed.secret),))
    for body in (b"", signed.request.body[:-1], signed.request.body + b" ", signed.request.body * 2):
        assert sources()[name].verify(signed.with_(body=body), found, NOW) is Refusal.VERIFICATION_FAILED


@pytest.mark.parametrize(("name", "sign"), CASES)
def test_a_request_without_signature_is_refused(name, sign):
    signed = sign(b"[]")
    found = endpoint(name, secrets=(secret(signed.secret),))
    assert sources()[name].verify(signed.with_(headers={}), found, NOW) is Refusal.SIGNATURE_MISSING


@pytest.mark.parametrize(("name", "sign"), CASES)
def test_an_endpoint_without_a_secret_accepts_nobody(name, sign):
    """INVARIANT: an empty secret is one that everybody knows. If this fails, an endpoint without one takes forgeries."""
    signed = sign(b"[]")
    for secrets in ((), (secret(b""),)):
        assert sources()[name].verify(signed.request, endpoint(name, secrets=secrets), NOW) is Refusal.ENDPOINT_DISABLED


@pytest.mark.parametrize("name", SIGNERS)
@given(
    body=st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(lambda value: json.dumps(value).encode())
)
def test_translating_never_raises(name, body):
    """INVARIANT: whatever a body holds, it ends as events, drops or dead letters. If this fails, one body stops a partition."""
    for found in sources()[name].translate(delivery(body, name), endpoint(name)):
        assert isinstance(found, Event | Ignored | Untranslatable)


@pytest.mark.parametrize("name", SIGNERS)
def test_a_made_secret_verifies_and_is_new_each_time(name):
    source = sources()[name]
    made = source.new_secret()
    assert made != source.new_secret()
    assert len(made) >= 32
    for sign in SIGNERS[name]:
        signed = sign(b"[]", secret=made)
        assert source.verify(signed.request, endpoint(name, secrets=(secret(made),)), NOW) is None


@pytest.mark.parametrize("name", SIGNERS)
@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_refusal_has_an_answer_that_asks_for_another_try(name, refusal):
    status, _, body = sources()[name].refused(refusal, answers.STATUS[refusal])
    assert status >= 400
    assert refusal.encode() in body


@pytest.mark.parametrize("name", SIGNERS)
def test_acceptance_is_a_success(name):
    status, headers, _ = sources()[name].accepted()
    assert 200 <= status < 300
    assert dict(headers)[b"content-type"]
