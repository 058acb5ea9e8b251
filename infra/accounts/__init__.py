"""Who may send to us and whose CRM we may read and write: tenants, endpoints, accounts.

Law: an endpoint is not an account; it owns secrets and the accounts that it may speak for. `Registry` writes and reads;
`Directory` is what the hot paths ask: memory alone, refreshed beside them.
"""

from infra.accounts.directory import Directory
from infra.accounts.identity import Account, Endpoint, RegistryError, Secret, State, account_id, salesforce_id
from infra.accounts.registry import JUST_CONNECTED_SECONDS, Registry, SecretSealer
from infra.accounts.weakness import weakness

__all__ = [
    "JUST_CONNECTED_SECONDS",
    "Account",
    "Directory",
    "Endpoint",
    "Registry",
    "RegistryError",
    "Secret",
    "SecretSealer",
    "State",
    "account_id",
    "salesforce_id",
    "weakness",
]
