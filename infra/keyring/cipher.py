"""Sealing: AES-256-GCM with a self-describing result, and nothing else.

Law: pure functions on bytes; knows no database. What is sealed names its key and binds the tenant and the purpose, so
that a ciphertext moved to another tenant, topic or column does not open. Key material shows in no repr and no error.

Format: one format byte, 16 bytes of key id, 12 bytes of nonce, ciphertext with its 16-byte tag. Format 2 holds
zlib-compressed plaintext: what is sealed cannot be compressed later, by Kafka or by anyone.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PLAIN = 1
COMPRESSED = 2
ID_BYTES = 16
NONCE_BYTES = 12
KEY_BYTES = 32
OVERHEAD = 1 + ID_BYTES + NONCE_BYTES + 16
"""Bytes that sealing adds."""
MAX_OPENED_BYTES = 64 * 1024 * 1024
"""Decompressing stops here; nothing that we seal is nearly as large."""
_FORMS = {PLAIN: bytes((PLAIN,)), COMPRESSED: bytes((COMPRESSED,))}
_NONCE_AT = 1 + ID_BYTES
_BODY_AT = _NONCE_AT + NONCE_BYTES
_NO_VALUE = "not a sealed value, or cut short"


class Undecryptable(ValueError):  # noqa: N818 -- the name of its dead-letter cause
    """It was altered, cut, or sealed for another tenant, purpose or key. Trying again never helps."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key that seals data of one tenant; `material` is in no repr and no comparison's message."""

    id: str
    """32 hexadecimal digits; stands in clear in what it sealed and in Kafka headers."""
    tenant: str
    scope: str
    """`delivery`, `record` or `tenant`."""
    name: str
    """What it seals, e.g. `tenant/account/object/id`."""
    material: bytes = field(repr=False)
    raw_id: bytes = field(init=False, repr=False, compare=False)
    """`id` as it stands in what the key sealed."""

    def __post_init__(self) -> None:
        raw_id = bytes.fromhex(self.id)
        if len(raw_id) != ID_BYTES:
            raise ValueError(f"data key id {self.id!r}: expected {ID_BYTES * 2} hexadecimal digits")
        object.__setattr__(self, "raw_id", raw_id)

    @property
    def cipher(self) -> AESGCM:
        """Made for each use, in a microsecond: kept, it would be five sixths of what a key weighs in memory (2.8 KB)."""
        return AESGCM(self.material)


def new_id() -> str:
    """A random key id."""
    return os.urandom(ID_BYTES).hex()


def _bound(head: bytes, tenant: str, purpose: str) -> bytes:
    return b"hookline\x00" + head + _owned(tenant, purpose)


@lru_cache(maxsize=4_096)
def _owned(tenant: str, purpose: str) -> bytes:
    owner = tenant.encode()
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    return len(owner).to_bytes(2, "big") + owner + purpose.encode()


def seal(key: DataKey, plaintext: bytes, *, purpose: str, compress: bool = False) -> bytes:
    """Seal `plaintext`; `purpose` is a topic family or `table.column`. `compress` is kept only where it makes it smaller."""
    form, content = _squeezed(plaintext) if compress else (PLAIN, plaintext)
    head = _FORMS[form] + key.raw_id
    nonce = os.urandom(NONCE_BYTES)
    return head + nonce + key.cipher.encrypt(nonce, content, _bound(head, key.tenant, purpose))


def _squeezed(plaintext: bytes) -> tuple[int, bytes]:
    """Form and content: compressed, where that makes it smaller."""
    squeezed = zlib.compress(plaintext, 1)
    return (COMPRESSED, squeezed) if len(squeezed) < len(plaintext) else (PLAIN, plaintext)


class Sealing:
    """`seal` of one key and purpose, with everything made once that is the same each time; for whoever seals without end.

    Weighs 3 KB, so it is kept by few, and let go of with its key.
    """

    __slots__ = ("_bound", "_encrypt", "_heads", "key")

    def __init__(self, key: DataKey, purpose: str) -> None:
        self.key = key
        self._encrypt = key.cipher.encrypt
        self._heads = {form: first + key.raw_id for form, first in _FORMS.items()}
        self._bound = {form: _bound(head, key.tenant, purpose) for form, head in self._heads.items()}

    def seal(self, plaintext: bytes, *, compress: bool = False) -> bytes:
        """See `seal`."""
        form, content = _squeezed(plaintext) if compress else (PLAIN, plaintext)
        nonce = os.urandom(NONCE_BYTES)
        return self._heads[form] + nonce + self._encrypt(nonce, content, self._bound[form])


def key_id_of(sealed: bytes) -> str:
    """The id of the key that sealed it; raises Undecryptable when this is no sealed value of ours."""
    if len(sealed) < OVERHEAD or sealed[0] not in _FORMS:
        raise Undecryptable(_NO_VALUE)
    return sealed[1:_NONCE_AT].hex()


def open_sealed(key: DataKey, sealed: bytes, *, purpose: str) -> bytes:
    """What was sealed; raises Undecryptable when a single bit, the tenant, the purpose or the key differs."""
    if len(sealed) < OVERHEAD or sealed[0] not in _FORMS:
        raise Undecryptable(_NO_VALUE)
    head, nonce, body = sealed[:_NONCE_AT], sealed[_NONCE_AT:_BODY_AT], sealed[_BODY_AT:]
    if head[1:] != key.raw_id:
        raise Undecryptable("sealed with another key")
    try:
        plaintext = key.cipher.decrypt(nonce, body, _bound(head, key.tenant, purpose))
    except InvalidTag:
        raise Undecryptable("altered, or sealed for another tenant or purpose") from None
    if sealed[0] == PLAIN:
        return plaintext
    squeezer = zlib.decompressobj()
    opened = squeezer.decompress(plaintext, MAX_OPENED_BYTES)
    if not squeezer.eof:
        raise Undecryptable("its compressed form is cut short or too large")
    return opened
