"""Controls that set up who is there: apps, portals, orgs, tokens and properties.

Law: as `controls`: JSON in, JSON out; what a caller got wrong raises ControlError, which says what to do.
"""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

from infra.local.sandbox.apps import HubSpotApp, OutboundMessages, chance_of
from infra.local.sandbox.hubspot_api import HubSpotApi
from infra.local.sandbox.hubspot_errors import HubSpotError
from infra.local.sandbox.hubspot_events import EventWriter
from infra.local.sandbox.hubspot_oauth import App, Grant
from infra.local.sandbox.hubspot_properties import create_property
from infra.local.sandbox.identifiers import salesforce_id, with_suffix
from infra.local.sandbox.kinds import ControlError, kind_name
from infra.local.sandbox.limits import Limits
from infra.local.sandbox.people import People
from infra.local.sandbox.salesforce_api import SalesforceApi
from infra.local.sandbox.salesforce_metadata import create_field
from infra.local.sandbox.salesforce_oauth import Client
from infra.local.sandbox.salesforce_values import SalesforceError
from infra.local.sandbox.seeding import seed_hubspot, seed_salesforce
from infra.local.sandbox.state import Account, Actor, Record, Token, World
from infra.local.sandbox.texts import OWNERS
from infra.local.sandbox.webhooks import Endpoint, Manners


class Registry:
    """Apps, accounts and their endpoints."""

    def __init__(
        self, world: World, hubspot: HubSpotApi, salesforce: SalesforceApi, people: People, time_scale: float
    ) -> None:
        self._world = world
        self._hubspot = hubspot
        self._salesforce = salesforce
        self._people = people
        self._time_scale = time_scale
        self._apps: dict[int, HubSpotApp] = {}
        self._endpoints: dict[str, Endpoint] = {}

    # ---------------------------------------------------------------- apps, portals, orgs

    def create_app(
        self,
        app_id: int,
        client_secret: str,
        target_url: str = "",
        *,
        client_id: str = "",
        signature_version: str = "v3",
        form: str = "mixed",
        public_url: str = "",
        ignored_property_prefixes: list[str] | None = None,
        **manners: Any,
    ) -> dict[str, Any]:
        """A HubSpot app. `signature_version`: v1, v2 or v3 (beside v1); `form` of its subscriptions: generic, legacy or
        mixed; `public_url`: what is signed, where that differs from `target_url`; `manners`: fields of `Manners`.
        """
        if signature_version not in {"v1", "v2", "v3"} or form not in {"generic", "legacy", "mixed"}:
            raise ControlError("signature_version is v1, v2 or v3, and form is generic, legacy or mixed")
        if app_id in self._apps:
            raise ControlError(f"app {app_id} exists already; change its URL with set_target")
        name = f"app:{app_id}"
        chance = chance_of(self._world, name)
        writer = EventWriter(app_id, form, tuple(ignored_property_prefixes or ()), chance)  # type: ignore[arg-type]  # checked above
        app = HubSpotApp(app_id, client_secret, public_url or target_url, signature_version, writer)  # type: ignore[arg-type]  # checked above
        app.client_id = client_id or f"client-{app_id}"
        self._apps[app_id] = app
        self._hubspot.oauth.apps[app.client_id] = App(app_id, client_secret, app.portals.add)
        self._world.listeners.append(app.tell)
        if target_url:
            app.endpoint = self._endpoint(name, target_url, app, manners)
        return {"app_id": app_id, "endpoint": name, "client_id": app.client_id}

    def set_target(self, endpoint: str, target_url: str, public_url: str = "") -> dict[str, Any]:
        """Send to another URL from now on (`app:14947547` or `org:salesforce:00D...`)."""
        if endpoint in self._endpoints:
            self._endpoints[endpoint].url = target_url
        app = self._apps.get(int(endpoint.partition(":")[2])) if endpoint.startswith("app:") else None
        if app is not None:
            app.uri = public_url or target_url
            if app.endpoint is None:
                app.endpoint = self._endpoint(endpoint, target_url, app, {})
        elif endpoint not in self._endpoints:
            raise ControlError(f"no endpoint {endpoint!r}; there are: {sorted(self._endpoints)}")
        return {"endpoint": endpoint, "target_url": target_url}

    def create_portal(
        self,
        portal_id: int,
        app_id: int | None = None,
        access_token: str = "",
        *,
        refresh_token: str = "",
        name: str = "",
        size: int = 60,
    ) -> dict[str, Any]:
        """A HubSpot portal with about `size` contacts, companies and deals each in proportion, and the app installed."""
        key = f"hubspot:{portal_id}"
        if key in self._world.accounts:
            raise ControlError(f"{key} exists already")
        app = self._apps.get(app_id) if app_id is not None else None
        if app_id is not None and app is None:
            raise ControlError(f"no app {app_id}: create_app first")
        account = Account("hubspot", str(portal_id), name or f"Portal {portal_id}", Limits())
        account.users = [(str(10_000_001 + place), owner) for place, owner in enumerate(OWNERS)]
        self._world.accounts[key] = account
        if size:
            seed_hubspot(self._world, account, size, chance_of(self._world, key))
        result: dict[str, Any] = {"account": key, "records": sum(len(rows) for rows in account.records.values())}
        if app is not None:
            app.portals.add(key)
            result["access_token"] = access_token or f"pat-eu1-{secrets.token_hex(16)}"
            actor = Actor("hookline", "INTEGRATION", str(app_id), str(app_id))
            self._world.tokens[result["access_token"]] = Token(result["access_token"], key, actor, app_id)
            if refresh_token:
                self._hubspot.oauth.grants[refresh_token] = Grant(key, app.app_id, app.client_id, app.secret, actor)
        elif access_token:
            self.add_token(key, access_token)
            result["access_token"] = access_token
        return result

    def create_org(
        self,
        org_id: str,
        access_token: str = "",
        target_url: str = "",
        *,
        consumer_key: str = "",
        consumer_secret: str = "",
        public_key: str = "",
        refresh_token: str = "",
        name: str = "",
        size: int = 60,
        mute_integration_user: bool = False,
        **manners: Any,
    ) -> dict[str, Any]:
        """A Salesforce org with its integration user, an external client app and outbound messages to `target_url`.

        `mute_integration_user`: that user's own saves send no outbound messages, as Salesforce advises.
        """
        number = with_suffix(org_id)
        if len(number) != 18 or not number.startswith("00D"):
            raise ControlError(f"{org_id!r} is no org id: 15 or 18 characters that start with 00D")
        key = f"salesforce:{number}"
        if key in self._world.accounts:
            raise ControlError(f"{key} exists already")
        account = Account("salesforce", number, name or f"Org {number}", Limits(daily=100_000))
        account.users = [(salesforce_id("005", 1 + place), owner) for place, owner in enumerate(OWNERS)]
        robot = salesforce_id("005", 900)
        self._world.accounts[key] = account
        if size:
            seed_salesforce(self._world, account, size, chance_of(self._world, key))
        actor = Actor("hookline", "INTEGRATION", robot, robot)
        if access_token:
            self._world.tokens[access_token] = Token(access_token, key, actor)
        client = Client(
            key, consumer_key or f"3MVG9{number}", consumer_secret or secrets.token_hex(16), actor, public_key
        )
        if refresh_token:
            client.refresh_tokens.add(refresh_token)
        self._salesforce.oauth.clients[client.consumer_key] = client
        muted = frozenset({robot}) if mute_integration_user else frozenset()
        messages = OutboundMessages(self._world, account, "https://sandbox.my.salesforce.com", muted)
        self._world.listeners.append(messages.tell)
        endpoint = f"org:{key}"
        if target_url:
            messages.endpoint = self._endpoint(endpoint, target_url, messages, {"timeout_s": 60.0, **manners})
        return {
            "account": key,
            "endpoint": endpoint,
            "integration_user": robot,
            "consumer_key": client.consumer_key,
            "consumer_secret": client.consumer_secret,
            "records": sum(len(rows) for rows in account.records.values()),
        }

    def _endpoint(self, name: str, url: str, dialect: Any, manners: dict[str, Any]) -> Endpoint:
        made = Endpoint(name, url, dialect, self._world.journal, chance_of(self._world, name), self._time_scale)
        self._endpoints[name] = made
        self.set_manners(name, **manners)
        return made

    def set_manners(self, endpoint: str, **manners: Any) -> dict[str, Any]:
        """How deliveries misbehave: fields of `Manners` (duplicate_rate, delay_rate, delay_s, parallel, batch, timeout_s, paused)."""
        if endpoint not in self._endpoints:
            raise ControlError(f"no endpoint {endpoint!r}; there are: {sorted(self._endpoints)}")
        known = self._endpoints[endpoint]
        try:
            known.manners = dataclasses.replace(known.manners, **manners)
        except TypeError:
            names = [field.name for field in dataclasses.fields(Manners)]
            raise ControlError(f"unknown manners {sorted(manners)}: use {names}") from None
        if known.queue:
            known.resume()
        return dataclasses.asdict(known.manners)

    def add_token(
        self, account: str, token: str, integration: str = "Contact Sync", source_id: str = "998877"
    ) -> dict[str, Any]:
        """An access token of another integration, whose writes count as changes."""
        owner = self._account(account)
        user = source_id if owner.vendor == "hubspot" else salesforce_id("005", 901)
        self._world.tokens[token] = Token(token, owner.key, Actor(integration, "INTEGRATION", source_id, user), None)
        return {"account": owner.key, "integration": integration}

    def revoke_token(self, token: str, *, revoked: bool = True) -> dict[str, Any]:
        """Let a token be refused with 401, or let it be good again."""
        if token not in self._world.tokens:
            raise ControlError("no such token")
        self._world.tokens[token].revoked = revoked
        return {"revoked": revoked}

    def set_rotation(self, account: str, *, rotate: bool = True) -> dict[str, Any]:
        """Let every refresh give a new refresh token and end the old one, or no longer."""
        owner = self._account(account)
        oauth = self._hubspot.oauth if owner.vendor == "hubspot" else self._salesforce.oauth
        (oauth.rotates.add if rotate else oauth.rotates.discard)(owner.key)
        return {"rotate": rotate}

    def uninstall(self, account: str) -> dict[str, Any]:
        """The admin takes the app's access back: refresh tokens and the access tokens that came of them end."""
        owner = self._account(account)
        oauth = self._hubspot.oauth if owner.vendor == "hubspot" else self._salesforce.oauth
        return {"ended": oauth.revoke(owner.key)}

    def create_properties(self, account: str, object: str, properties: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: A002 - the journal's word
        """Properties in the vendor's own form; those that exist already are left alone. HubSpot: as for
        `POST /crm/v3/properties/{type}` (a missing group is made). Salesforce: `{"FullName": "Lead.X__c", "Metadata": {...}}`.
        """
        owner = self._account(account)
        kind = kind_name(owner, object)
        made, existing = [], []
        for given in properties:
            name = str(given.get("name") or given.get("FullName", "").rpartition(".")[2])
            if name in owner.catalogue[kind]:
                existing.append(name)
                continue
            try:
                if owner.vendor == "hubspot":
                    group = str(given.get("groupName") or "")
                    owner.groups[kind].setdefault(group, group.replace("_", " ").capitalize())
                    create_property(owner, kind, given, self._world.clock())
                else:
                    create_field(owner, f"{kind}.{name}", given.get("Metadata") or given, self._world.clock())
            except (HubSpotError, SalesforceError) as error:
                raise ControlError(f"{name}: {error}") from None
            made.append(name)
        return {"created": made, "existing": existing}

    def _account(self, key: str) -> Account:
        try:
            return self._world.account(key)
        except KeyError as error:
            raise ControlError(str(error.args[0])) from None

    def _record(self, owner: Account, name: str, record_id: str) -> Record:
        record = owner.find(kind_name(owner, name), record_id)
        if record is None:
            raise ControlError(f"{owner.key} has no {name} {record_id}, or it is deleted")
        return record
