"""What an operation of the API is: a route, said once.

Law: an operation gets a checked call (a key of the right role, a query and a body that fit their models) and returns what its
answer model describes. It raises Problem, or anything that `problem_of` understands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from console.api.problems import Problem
from console.status_section import Sight
from infra.accounts import Account, Endpoint, Registry, RegistryError
from infra.accounts.keys import ApiKey, KeyRole
from infra.kafka.broker import Publisher
from infra.keyring import Keyring
from infra.role import Parts
from infra.settings import Settings


class Given(BaseModel):
    """Base of what callers send: unknown members are refused, since they are typing errors."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


@dataclass(frozen=True, slots=True)
class Desk:
    """What operations work with."""

    settings: Settings
    parts: Parts
    publisher: Publisher

    @property
    def registry(self) -> Registry:
        """Tenants, endpoints, accounts."""
        return self.parts.registry

    @property
    def keyring(self) -> Keyring:
        """For what is sealed."""
        return self.parts.keyring

    @property
    def sight(self) -> Sight:
        """For parts of the status."""
        return Sight(self.settings, self.parts.engine, self.registry, self.keyring)


@dataclass(frozen=True, slots=True)
class Call:
    """One checked call."""

    at: Desk
    key: ApiKey
    path: Mapping[str, str]
    query: Any
    body: Any

    @property
    def tenant(self) -> str:
        """Whose key it is: all that may be seen."""
        return self.key.tenant

    @property
    def who(self) -> str:
        """For audits."""
        return f"key {self.key.id}"

    async def account(self) -> Account:
        """The account of the path; 404 for another tenant's, as for one that is not there."""
        return await self.own_account(self.path["account"])

    async def own_account(self, wanted: str) -> Account:
        """An account of the caller's tenant."""
        try:
            found = await self.at.registry.account(wanted)
        except RegistryError:
            found = None
        if found is None or found.id != wanted or found.tenant != self.tenant:
            raise Problem(404, f"there is no account {wanted[:80]!r}", "GET /api/accounts lists those that are there.")
        return found

    async def own_endpoint(self, wanted: str) -> Endpoint:
        """An endpoint of the caller's tenant, by id or name."""
        for endpoint in await self.at.registry.endpoints():
            if endpoint.tenant == self.tenant and wanted in {endpoint.id, endpoint.name}:
                return endpoint
        raise Problem(404, "there is no such endpoint", "GET /api/endpoints lists those that are there.")


@dataclass(frozen=True, slots=True)
class Operation:
    """One route."""

    method: str
    path: str
    """Below /api; `{name}` is one segment."""
    name: str
    """The OpenAPI operationId."""
    summary: str
    role: KeyRole
    act: Callable[[Call], Awaitable[Any]]
    answer: Any
    """A type that pydantic can describe."""
    body: type[Given] | None = None
    query: type[Given] | None = None
    status: int = 200
    tag: str = ""
