"""Declarations: read whole, with errors that say which field and what to do."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.declared.declaration import Declaration, DeclarationError, read, read_file
from ingress.declared.presets import PRESETS
from tests.ingress.signers import EVERYTHING, declared

CHANGES = {"account": "hubspot:33", "object": "'deal'", "id": "event.id"}
HMAC = {"scheme": "hmac", "header": "X-Sig"}


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "verify: is missing: add it"),
        ({"verify": HMAC}, "changes: is missing: add it"),
        ({"verify": {"scheme": "rot13"}, "changes": CHANGES}, "verify.scheme: names no scheme: hmac, bearer, basic"),
        ({"verify": {"header": "X"}, "changes": CHANGES}, "verify.scheme: is missing"),
        ({"verify": {**HMAC, "header": "X Sig"}, "changes": CHANGES}, "verify.header: not the name of a header"),
        ({"verify": {**HMAC, "digest": "md5"}, "changes": CHANGES}, "verify.digest: Input should be 'sha1', 'sha256'"),
        ({"verify": {**HMAC, "signed": "{timestamp}"}, "changes": CHANGES}, "{body} must stand in it once"),
        ({"verify": {**HMAC, "signed": "{body}{host}"}, "changes": CHANGES}, "{host} is not known; there are {body}"),
        ({"verify": {**HMAC, "signed": "{timestamp}{body}"}, "changes": CHANGES}, "belong together"),
        ({"verify": {**HMAC, "timestamp": {"header": "X-T"}}, "changes": CHANGES}, "what is read must be signed"),
        (
            {"verify": {**HMAC, "timestamp": {}, "signed": "{timestamp}{body}"}, "changes": CHANGES},
            "give either header or element",
        ),
        (
            {"verify": HMAC, "changes": {**CHANGES, "account": "hubspot:x"}},
            "changes.account: the id after the colon is none",
        ),
        ({"verify": HMAC, "changes": {**CHANGES, "id": "event["}}, "changes.id: no JMESPath expression"),
        (
            {"verify": HMAC, "changes": {**CHANGES, "id": "nosuch(event)"}},
            "changes.id: JMESPath has no function 'nosuch'",
        ),
        ({"verify": HMAC, "changes": {**CHANGES, "id": "a" * 1_001}}, "changes.id: longer than 1000 characters"),
        ({"verify": HMAC, "changes": {**CHANGES, "objects": {"x": "elephant"}}}, "changes.objects.x"),
        ({"verify": HMAC, "changes": CHANGES, "secret": "hush"}, "secret: is no field that is known here: remove it"),
        (
            {"verify": HMAC, "changes": CHANGES, "networks": ["10.0.0.1/8"]},
            "networks.0: 10.0.0.1/8 has host bits set; write",
        ),
        ({"preset": "nobody"}, "preset is not known; there are github"),
    ],
)
def test_an_error_names_the_field_and_what_to_do(given_, said):
    with pytest.raises(DeclarationError) as error:
        read(given_)
    assert said in str(error.value)
    assert "hush" not in str(error.value)


def test_all_problems_are_said_at_once():
    with pytest.raises(DeclarationError) as error:
        read({"verify": {"scheme": "hmac"}, "changes": {}, "more": 1})
    assert str(error.value).count("\n  - ") == 5


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_whole_scheme(preset):
    assert read({"preset": preset, "changes": CHANGES}).preset == preset


def test_a_declaration_may_differ_from_its_preset_in_one_field():
    found = read({"preset": "slack", "verify": {"prefix": "v1="}, "changes": CHANGES})
    assert (found.verify.prefix, found.verify.header, found.handshake.kind) == ("v1=", "x-slack-signature", "slack")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "preset: github\nchanges:\n  account: hubspot:33\n  object: \"'deal'\"\n  id: event.id\n"),
        ("a.toml", 'preset = "github"\n[changes]\naccount = "hubspot:33"\nobject = "\'deal\'"\nid = "event.id"\n'),
        ("a.json", json.dumps({"preset": "github", "changes": CHANGES})),
    ],
)
def test_three_ways_to_write_it_down(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read(read_file(tmp_path / name)) == read({"preset": "github", "changes": CHANGES})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "a: [1\nb: 2", "line 2, column 2"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "line 1"),
        ("a.toml", "a = \nb = 1", "line 1"),
        ("a.json", "{", "line 1, column 2"),
        ("a.json", "[]", "expected fields such as"),
        ("a.txt", "", "must end in .json, .toml, .yaml, .yml"),
        ("a.yaml", "#" * 70_000, "larger than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DeclarationError) as error:
        read_file(tmp_path / name)
    assert said in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DeclarationError, match="cannot be read"):
        read_file(tmp_path / "none.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["verify", "changes", "scheme", "preset", "header", "signed", "networks", "handshake"])
                | st.text(max_size=4),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_whatever_is_declared_is_read_or_refused_by_name(value):
    said = "this declaration cannot be used"
    if isinstance(value, dict):
        try:
            found: object = read(value)
        except DeclarationError as error:
            found = str(error)
        assert isinstance(found, Declaration) or str(found).startswith(said)


def test_reading_changes_nothing_of_what_was_given():
    before = json.dumps(EVERYTHING)
    read(EVERYTHING)
    read({**declared({}), "preset": "github"})
    assert json.dumps(EVERYTHING) == before
