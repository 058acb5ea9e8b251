from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.keyring import DataKey, Sealing, Undecryptable, key_id_of, open_sealed, seal
from infra.keyring.cipher import OVERHEAD, new_id

KEY = DataKey(new_id(), "acme", "record", "acme/hubspot:1/contact/7", os.urandom(32))


@given(st.binary(max_size=4000), st.booleans())
def test_what_was_sealed_opens_with_the_same_key_and_purpose(plaintext: bytes, compress: bool) -> None:
    sealed = seal(KEY, plaintext, purpose="crm.changes", compress=compress)
    assert open_sealed(KEY, sealed, purpose="crm.changes") == plaintext
    assert key_id_of(sealed) == KEY.id


@given(plaintexts=st.lists(st.binary(max_size=4000), min_size=1, max_size=3), compress=st.booleans())
def test_a_sealing_that_is_kept_seals_as_the_function_does(plaintexts: list[bytes], compress: bool) -> None:
    sealing = Sealing(KEY, "crm.deliveries")
    sealed = [sealing.seal(each, compress=compress) for each in (*plaintexts, *plaintexts)]
    assert [open_sealed(KEY, each, purpose="crm.deliveries") for each in sealed] == plaintexts * 2
    assert len({each[:29] for each in sealed}) == len(
        sealed
    )  # INVARIANT: no nonce twice, or AES-GCM keeps nothing secret
    assert {each[0] for each in sealed} == {seal(KEY, each, purpose="p", compress=compress)[0] for each in plaintexts}
    with pytest.raises(Undecryptable):
        open_sealed(KEY, sealed[0], purpose="crm.changes")


@pytest.mark.parametrize("compress", [False, True])
def test_changing_any_byte_makes_it_undecryptable(compress: bool) -> None:
    """INVARIANT: format, key id, nonce and text are all bound; else a changed byte reads as something a customer wrote."""
    sealed = seal(KEY, b"deal closes on friday " * 4, purpose="crm.records", compress=compress)
    for place in range(len(sealed)):
        for bit in (1, 128):
            changed = bytearray(sealed)
            changed[place] ^= bit
            with pytest.raises(Undecryptable):
                open_sealed(KEY, bytes(changed), purpose="crm.records")


def test_cutting_it_anywhere_makes_it_undecryptable() -> None:
    sealed = seal(KEY, b"text", purpose="p")
    for size in range(len(sealed)):
        with pytest.raises(Undecryptable):
            open_sealed(KEY, sealed[:size], purpose="p")


@pytest.mark.parametrize("purpose", ["crm.changes", "crm.insightsx", "", "analyst_state.sealed_insight"])
def test_it_opens_for_no_other_purpose(purpose: str) -> None:
    with pytest.raises(Undecryptable):
        open_sealed(KEY, seal(KEY, b"text", purpose="crm.insights"), purpose=purpose)


def test_it_opens_for_no_other_tenant_even_with_the_same_material() -> None:
    other = DataKey(KEY.id, "globex", KEY.scope, KEY.name, KEY.material)
    with pytest.raises(Undecryptable):
        open_sealed(other, seal(KEY, b"text", purpose="p"), purpose="p")


def test_tenant_and_purpose_cannot_flow_into_one_another() -> None:
    first = DataKey(KEY.id, "ab", "tenant", "ab", KEY.material)
    second = DataKey(KEY.id, "a", "tenant", "a", KEY.material)
    with pytest.raises(Undecryptable):
        open_sealed(second, seal(first, b"text", purpose="c"), purpose="bc")


def test_the_same_text_never_seals_to_the_same_bytes() -> None:
    assert len({seal(KEY, b"text", purpose="p") for _ in range(100)}) == 100
    assert len(seal(KEY, b"text", purpose="p")) == OVERHEAD + 4


def test_no_repr_and_no_error_shows_key_material() -> None:
    """INVARIANT: a key in a log line is a key lost."""
    shown = repr(KEY) + str(KEY) + f"{KEY!r:>10}"
    with pytest.raises(Undecryptable) as caught:
        open_sealed(KEY, b"\x01" + bytes(80), purpose="p")
    shown += repr(caught.value)
    for form in (repr(KEY.material)[2:-1], KEY.material.hex(), str(list(KEY.material))):
        assert form not in shown
