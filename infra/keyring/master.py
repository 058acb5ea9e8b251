"""Master keys: they wrap data keys and seal our own secrets (endpoint secrets, CRM credentials), and nothing else.

Law: the first of the list wraps, all of them unwrap, so that rotating is: put a new one first, rewrap, drop the last.
Each use has a subkey of its own (HKDF-SHA256, RFC 5869); the master key itself never touches data.
Format: one format byte, 4 bytes that name the master key, 12 bytes of nonce, ciphertext with its 16-byte tag.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from infra.keyring.cipher import KEY_BYTES, NONCE_BYTES, Undecryptable
from infra.settings import SettingsError, variable

_FORMAT = 1
_MARK_BYTES = 4


def new_master_key() -> str:
    """A random master key, as the setting takes it."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def _parts(*parts: str) -> bytes:
    return b"".join([len(raw).to_bytes(4, "big") + raw for raw in [part.encode() for part in parts]])


@dataclass(frozen=True, slots=True)
class _Master:
    mark: bytes
    wrapping: AESGCM = field(repr=False)
    secrets: AESGCM = field(repr=False)

    @classmethod
    def of(cls, material: bytes) -> _Master:
        def subkey(use: bytes) -> bytes:
            return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"hookline/" + use).derive(material)

        mark = hashlib.sha256(subkey(b"mark")).digest()[:_MARK_BYTES]
        return cls(mark, AESGCM(subkey(b"wrap")), AESGCM(subkey(b"secret")))


class MasterKeys:
    """All master keys of this process. Methods do not block, and raise Undecryptable for what none of them opens."""

    def __init__(self, setting: SecretStr) -> None:
        """Raises SettingsError, without showing it, when a key is not base64 of 32 bytes."""
        self._keys: list[_Master] = []
        for place, text in enumerate(filter(None, (part.strip() for part in setting.get_secret_value().split(","))), 1):
            try:
                material = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                material = b""
            if len(material) != KEY_BYTES:
                raise SettingsError(
                    f"{variable('master_keys')}: key {place} is not base64 of {KEY_BYTES} bytes; make one with `hookline config new-master-key`"
                )
            self._keys.append(_Master.of(material))
        if not self._keys:
            raise SettingsError(f"{variable('master_keys')} is empty; make a key with `hookline config new-master-key`")

    def __repr__(self) -> str:
        return f"MasterKeys({len(self._keys)})"

    def wrap(self, material: bytes, *bound: str) -> bytes:
        """Wrap a data key under the first master key; `bound` (its id, scope, name, tenant) must be the same to unwrap."""
        first = self._keys[0]
        return self._seal(first, first.wrapping, material, _parts("wrap", *bound))

    def unwrap(self, wrapped: bytes, *bound: str) -> bytes:
        """The data key again."""
        return self._open(wrapped, "wrapping", _parts("wrap", *bound))

    def is_current(self, wrapped: bytes) -> bool:
        """Whether the first master key wrapped it."""
        return wrapped[1 : 1 + _MARK_BYTES] == self._keys[0].mark

    def knows(self, wrapped: bytes) -> bool:
        """Whether any of our master keys wrapped it."""
        return any(wrapped[1 : 1 + _MARK_BYTES] == key.mark for key in self._keys)

    def seal_secret(self, plaintext: bytes, *, purpose: str) -> bytes:
        """Seal one of our own secrets under the first master key."""
        first = self._keys[0]
        return self._seal(first, first.secrets, plaintext, _parts("secret", purpose))

    def open_secret(self, sealed: bytes, *, purpose: str) -> bytes:
        """The secret again; the purpose must be the same."""
        return self._open(sealed, "secrets", _parts("secret", purpose))

    @staticmethod
    def _seal(master: _Master, cipher: AESGCM, plaintext: bytes, bound: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        head = bytes((_FORMAT,)) + master.mark
        return head + nonce + cipher.encrypt(nonce, plaintext, head + bound)

    def _open(self, sealed: bytes, use: str, bound: bytes) -> bytes:
        start = 1 + _MARK_BYTES
        if len(sealed) < start + NONCE_BYTES + 16 or sealed[0] != _FORMAT:
            raise Undecryptable("not a value sealed under a master key, or cut short")
        head, nonce, body = sealed[:start], sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :]
        for master in self._keys:
            if master.mark == head[1:]:
                cipher: AESGCM = getattr(master, use)
                try:
                    return cipher.decrypt(nonce, body, head + bound)
                except InvalidTag:
                    raise Undecryptable("altered, or sealed for another purpose") from None
        raise Undecryptable(
            f"sealed under a master key that is not in {variable('master_keys')}: put that key back at the end of the list"
        )
