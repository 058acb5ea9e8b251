"""Who is told of changes: HubSpot apps with their portals, and Salesforce orgs with their outbound messages.

Law: decides which endpoint hears of a change, and what its requests say. Secrets stay in here.
"""

from __future__ import annotations

import random
from typing import Any

import orjson

from infra.local.sandbox import signatures
from infra.local.sandbox.hubspot_events import EventWriter
from infra.local.sandbox.identifiers import now_ms, salesforce_id, with_suffix
from infra.local.sandbox.objects import SALESFORCE
from infra.local.sandbox.soap import acknowledged, envelope
from infra.local.sandbox.state import Account, Record, Save, World
from infra.local.sandbox.webhooks import Endpoint, Message

_AGENT = "HubSpot Connect 2.0 (http://dev.hubspot.com/) (namespace: webhooks-nio-http-client) - WebhooksExecutorDaemon-executor"


class HubSpotApp:
    """One HubSpot app: one URL and one secret for every portal that installed it."""

    def __init__(
        self, app_id: int, secret: str, uri: str, version: signatures.SignatureVersion, writer: EventWriter
    ) -> None:
        self.app_id = app_id
        self.secret = secret
        self.uri = uri
        """The public URL, which is what is signed; the endpoint's own may be behind a proxy."""
        self.version: signatures.SignatureVersion = version
        self.writer = writer
        self.client_id = f"client-{app_id}"
        self.portals: set[str] = set()
        self.endpoint: Endpoint | None = None

    def tell(self, save: Save) -> None:
        """Queue the events of a change, if its portal installed this app."""
        if self.endpoint is None or save.account.key not in self.portals:
            return
        events = self.writer.events(save)
        if events:
            if save.actor.source_id == str(self.app_id):
                self.endpoint.counts.echoes += len(events)
            self.endpoint.push(events)

    def build(self, message: Message) -> tuple[bytes, dict[str, str]] | None:
        """A JSON array, signed now."""
        events = (
            message.items
            if not message.attempt
            else [{**event, "attemptNumber": message.attempt} for event in message.items]
        )
        body = orjson.dumps(events)
        headers = {"Content-Type": "application/json", "User-Agent": _AGENT, "Accept": "*/*"}
        return body, headers | signatures.headers(self.version, self.secret, self.uri, body, now_ms())

    def accepted(self, status: int, body: bytes) -> bool:  # noqa: ARG002 - HubSpot reads the status alone
        """Any 2xx will do."""
        return 200 <= status < 300

    def group(self, item: Any) -> object:  # noqa: ARG002 - the protocol's signature
        """Events of all its portals travel together."""
        return None


class OutboundMessages:
    """One Salesforce org's outbound messages, one action for each object type."""

    OBJECTS = frozenset({"Lead", "Contact", "Account", "Opportunity", "Task", "EmailMessage", "Note"})

    def __init__(self, world: World, account: Account, instance: str, muted: frozenset[str]) -> None:
        self.world = world
        self.account = account
        self.instance = instance
        self.muted = muted
        """User ids whose saves send nothing: those without "Send Outbound Messages"."""
        self.endpoint: Endpoint | None = None
        self._notification = 0

    def tell(self, save: Save) -> None:
        """Queue a notification; a workflow sends none for deletions."""
        if self.endpoint is None or save.account is not self.account or save.record.type not in self.OBJECTS:
            return
        if save.kind in {"deleted", "erased"} or save.actor.user in self.muted:
            return
        if save.actor.by == "hookline":
            self.endpoint.counts.echoes += 1
        self._notification += 1
        self.endpoint.push([(salesforce_id("04l", self._notification), save.record)])

    def build(self, message: Message) -> tuple[bytes, dict[str, str]] | None:
        """An envelope with the records as they are now: Salesforce sends the latest, not the change."""
        there = [(key, record) for key, record in message.items if not record.archived]
        if not there:
            return None
        kind = there[0][1].type
        action = salesforce_id("04k", list(SALESFORCE).index(kind) + 1)
        body = envelope(with_suffix(self.account.number), action, self.instance, there, self.account.catalogue[kind])
        return body, {
            "Content-Type": "text/xml; charset=utf-8",
            "SOAPAction": '""',
            "User-Agent": "SFDC-Outbound-Messages",
            "Accept": "text/xml",
        }

    def accepted(self, status: int, body: bytes) -> bool:
        """A 200 with `<Ack>true</Ack>`."""
        return status == 200 and acknowledged(body)

    def group(self, item: tuple[str, Record]) -> object:
        """One action is about one object type."""
        return item[1].type


def chance_of(world: World, name: str) -> random.Random:
    """A generator of its own for an endpoint, so that one endpoint's traffic does not change another's."""
    return random.Random(f"{world.random.random()}/{name}")
