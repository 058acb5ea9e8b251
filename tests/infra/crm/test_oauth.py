"""OAuth's pure parts: addresses, PKCE, and what a process without a database does with tokens."""

from __future__ import annotations

import time
from urllib.parse import parse_qs, urlsplit

import pytest

from infra.accounts import Account
from infra.crm import oauth
from infra.crm.oauth_tokens import RENEW_BEFORE_SECONDS, Access, OwnTokens
from infra.settings import Settings

SETTINGS = Settings(_env_file=None)


def account(crm: str, credentials, **config) -> Account:
    number = "1" if crm == "hubspot" else "00D5g000004XyzAEAS"
    return Account(f"{crm}:{number}", "acme", crm, "", config, credentials)


def asked(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_the_challenge_is_that_of_rfc_7636():
    """Its appendix B."""
    assert (
        oauth.challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
        == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )


@pytest.mark.parametrize(
    ("crm", "given", "config", "begins"),
    [
        ("hubspot", {"client_id": "c"}, {}, "https://app.hubspot.com/oauth/authorize?"),
        ("salesforce", {"consumer_key": "c"}, {}, "https://login.salesforce.com/services/oauth2/authorize?"),
        (
            "salesforce",
            {"consumer_key": "c"},
            {"instance_url": "https://acme.my.salesforce.com"},
            "https://acme.my.salesforce.com/services/oauth2/authorize?",
        ),
    ],
)
def test_an_admin_is_sent_with_a_state_and_a_challenge_that_differ_every_time(crm, given, config, begins):
    first, second = (
        oauth.begin(SETTINGS, account(crm, given, **config), "https://h/oauth/x/callback") for _ in range(2)
    )
    query = asked(first.url)
    assert first.url.startswith(begins)
    assert query["client_id"] == "c"
    assert query["redirect_uri"] == "https://h/oauth/x/callback"
    assert query["state"] == first.state != second.state
    assert len(first.state) >= 43, "256 bits"
    assert query["code_challenge"] == oauth.challenge_of(first.verifier)
    assert query["code_challenge_method"] == "S256"
    assert first.verifier not in first.url
    assert query.get("response_type", "code") == "code"


def test_without_a_client_id_it_says_which_credential_is_missing():
    with pytest.raises(ValueError, match="consumer_key"):
        oauth.begin(SETTINGS, account("salesforce", {}), "https://h")


def test_no_token_stands_in_a_text():
    grant = oauth.Grant("access-1", "refresh-1", 1800.0, "", {})
    assert "access-1" not in repr(grant) + repr(Access("access-1", 1.0))
    assert "refresh-1" not in repr(grant)


def test_a_token_is_renewed_before_it_ends():
    assert Access("t", time.time() + RENEW_BEFORE_SECONDS + 5).lasts()
    assert not Access("t", time.time() + RENEW_BEFORE_SECONDS - 5).lasts()


async def test_a_rotated_token_is_used_next_and_one_given_anew_outweighs_it():
    used = []

    async def ask(_account, refresh_token):
        used.append(refresh_token)
        return oauth.Grant(f"a{len(used)}", f"r{len(used)}", 1800.0, "", {})

    tokens = OwnTokens()
    mine = account("hubspot", {"refresh_token": "r0"})
    for _ in range(2):
        await tokens.renewed(mine, "", ask)
    await tokens.renewed(account("hubspot", {"refresh_token": "new"}), "", ask)
    assert used == ["r0", "r1", "new"]
