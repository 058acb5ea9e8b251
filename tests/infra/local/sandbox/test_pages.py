"""What a person sees."""

import httpx
import pytest

EVIL = "<script>alert(1)</script>\"'&"


@pytest.fixture
def get(sandbox):
    with httpx.Client(base_url=sandbox.base) as client:
        yield client.get


def test_the_list_shows_all_accounts_and_says_that_it_is_a_stand_in(get, controls, portal, org):
    page = get("/").text
    assert "stand-in" in page
    assert portal in page
    assert org in page
    for kind in ("contact", "company", "deal"):
        assert f"/records/{portal}/{kind}/{controls.records(portal, kind)[0]}" in page


def test_an_empty_sandbox_says_what_to_do(get):
    assert "create_portal" in get("/").text


@pytest.mark.parametrize(("which", "kind", "name"), [("portal", "deal", "dealname"), ("org", "deal", "Name")])
def test_a_record_page_shows_properties_notes_and_insight_as_they_come(get, controls, request, which, kind, name):
    account = request.getfixturevalue(which)
    record = controls.records(account, kind)[0]
    address = f"/records/{account}/{kind}/{record}"
    before = get(address)
    assert before.status_code == 200
    assert str(controls.record(account, kind, record)["properties"][name]) in before.text
    assert "Nothing here yet" in before.text
    controls.note(account, record, "They must have single sign-on.")
    if which == "portal":
        rows = [{"name": "hookline_score", "label": "Lead score", "type": "number", "fieldType": "number", "groupName": "hookline"},
                {"name": "hookline_why", "label": "Why", "type": "string", "fieldType": "textarea", "groupName": "hookline"}]  # fmt: skip
        values = {"hookline_score": "83", "hookline_why": "Budget & date are known"}
    else:
        rows = [{"FullName": "Opportunity.Hookline_Score__c", "Metadata": {"label": "Lead score", "type": "Number", "precision": 3, "scale": 0}},
                {"FullName": "Opportunity.Hookline_Why__c", "Metadata": {"label": "Why", "type": "LongTextArea", "length": 500}}]  # fmt: skip
        values = {"Hookline_Score__c": 83.0, "Hookline_Why__c": "Budget & date are known"}
    controls.create_properties(account, kind, rows)
    controls.save(account, kind, record, values)
    live = get(f"/live{address}").text
    assert "They must have single sign-on." in live
    assert '<b data-k="score">83</b>' in live
    assert "Budget &amp; date are known" in live
    assert "Nothing here yet" not in live
    assert "83" in get("/live/").text


def test_values_are_escaped_everywhere(get, controls, portal, org):
    """INVARIANT: what a customer wrote never becomes markup. Notes are written by strangers."""
    contact, deal = controls.records(portal, "contact")[0], controls.records(portal, "deal")[0]
    controls.save(portal, "contact", contact, {"firstname": EVIL, "jobtitle": EVIL})
    controls.save(portal, "deal", deal, {"dealname": EVIL})
    controls.note(portal, deal, EVIL, kind="email", subject=EVIL)
    lead = controls.records(org, "lead")[0]
    controls.save(org, "lead", lead, {"LastName": EVIL, "Company": EVIL})
    pages = [
        "/",
        f"/records/{portal}/contact/{contact}",
        f"/records/{portal}/deal/{deal}",
        f"/records/{org}/lead/{lead}",
    ]
    for page in pages:
        text = get(page).text
        assert "alert(1)" in text
        assert "<script>alert" not in text


def test_scripts_run_by_nonce_alone_and_nothing_is_fetched_from_elsewhere(get, controls, portal):
    answered = get(f"/records/{portal}/contact/{controls.records(portal, 'contact')[0]}")
    policy = answered.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'nonce-" in policy
    assert "http://" not in answered.text.replace("http://127.0.0.1", "")
    assert "src=" not in answered.text


@pytest.mark.parametrize(
    "path",
    [
        "/records/hubspot:1/contact/1",
        "/records/hubspot:145883449/spaceship/1",
        "/records/hubspot:145883449/contact/1",
        "/x",
        "/live/x",
    ],
)
@pytest.mark.usefixtures("portal")
def test_what_is_not_there_is_404(get, path):
    assert get(path).status_code == 404


def test_a_deleted_record_is_shown_as_such(get, controls, portal):
    contact = controls.records(portal, "contact")[0]
    controls.delete(portal, "contact", contact)
    assert '<span class="gone">deleted</span>' in get(f"/records/{portal}/contact/{contact}").text
