"""Encryption of everything that customers wrote: data keys per record, per endpoint and hour, per tenant.

Law: the only place that makes, wraps or opens keys.
"""

from infra.keyring.cipher import DataKey, Sealing, Undecryptable, key_id_of, open_sealed, seal
from infra.keyring.master import MasterKeys, new_master_key
from infra.keyring.ring import Keyring
from infra.keyring.store import KeyStore, MemoryKeys, PostgresKeys

__all__ = [
    "DataKey",
    "KeyStore",
    "Keyring",
    "MasterKeys",
    "MemoryKeys",
    "PostgresKeys",
    "Sealing",
    "Undecryptable",
    "key_id_of",
    "new_master_key",
    "open_sealed",
    "seal",
]
