"""Salesforce's outbound messages: SOAP in, `Ack` out.

Law: `Ack` is `true` only once the broker has acknowledged; anything else makes Salesforce send again for 24 hours.
Source: "Outbound Messaging" of Salesforce's SOAP API developer guide. An outbound message carries no signature. What
authenticates it is the endpoint's id, drawn at random and known to that org's admins alone; so the id is a secret here,
and the OrganizationId must be one that the endpoint may speak for (the translator asks). An endpoint may ask for more:
Salesforce's client certificate and its networks (`ingress/conditions.py`). What a message triggers is only a look into the
CRM itself. `ingress/dialects/salesforce.py` says what the messages mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from ingress.dialects import salesforce as dialect
from ingress.sources.source import Answer, Denied, InboundRequest, Source, Translated, random_secret
from schemas.delivery import Delivery, Refusal

if TYPE_CHECKING:
    from infra.accounts import Endpoint

MIN_ID_CHARACTERS = 20
"""An endpoint's id shorter than this could be guessed: then nothing authenticates the sender."""

_GUESSABLE = Denied(Refusal.ENDPOINT_DISABLED, "its id, which is the secret here, is short enough to be guessed")
_XML = [(b"content-type", b"text/xml; charset=utf-8")]

_ACK = b"""<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <soapenv:Body>
  <notificationsResponse xmlns="http://soap.sforce.com/2005/09/outbound">
   <Ack>true</Ack>
  </notificationsResponse>
 </soapenv:Body>
</soapenv:Envelope>
"""

_FAULT = b"""<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <soapenv:Body>
  <soapenv:Fault>
   <faultcode>soapenv:%s</faultcode>
   <faultstring>%s</faultstring>
   <detail />
  </soapenv:Fault>
 </soapenv:Body>
</soapenv:Envelope>
"""


class Salesforce:
    """One endpoint per org, or several of one customer."""

    name = "salesforce"
    id_is_secret = True

    def verify(self, request: InboundRequest, endpoint: Endpoint, now: datetime) -> Denied | None:
        """Whoever knows the address has shown the secret; all that is left to refuse is an address that is none."""
        del request, now
        return _GUESSABLE if len(endpoint.id) < MIN_ID_CHARACTERS else None

    def new_secret(self) -> bytes:
        """Not used: the endpoint's id is what authenticates."""
        return random_secret()

    def translate(self, delivery: Delivery, endpoint: Endpoint) -> Iterable[Translated]:
        """The notifications of the message, one by one."""
        return dialect.translate(delivery, endpoint)

    def accepted(self) -> Answer:
        """A bare 200 would be sent again."""
        return 200, _XML, _ACK

    def refused(self, refusal: Refusal, status: int) -> Answer:
        """SOAP 1.1 sends a fault with 500; 503 stays, for it says when to come again."""
        side = b"Server" if status >= 500 else b"Client"
        return (503 if status == 503 else 500), _XML, _FAULT % (side, refusal.encode())


PLUGIN: Source = Salesforce()
