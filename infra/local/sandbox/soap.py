"""Salesforce's outbound messages: the SOAP envelope that is sent, and the acknowledgement that is expected.

Law: shapes as in Salesforce's published samples; a bare 200 is no acknowledgement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import escape

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from infra.local.sandbox.catalogue_hubspot import Property
from infra.local.sandbox.state import Record

_NAMESPACE = "http://soap.sforce.com/2005/09/outbound"
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
    f' <soapenv:Body>\n  <notifications xmlns="{_NAMESPACE}">\n'
)
_TAIL = "  </notifications>\n </soapenv:Body>\n</soapenv:Envelope>\n"
# Characters that XML 1.0 cannot carry in any form.
_FORBIDDEN = {code: None for code in range(32) if code not in {9, 10, 13}}


def envelope(
    organization: str,
    action: str,
    instance: str,
    notifications: Iterable[tuple[str, Record]],
    fields: dict[str, Property],
) -> bytes:
    """One message: up to 100 (notification id, record) pairs of one object type, with all fields that hold a value."""
    soap = f"{instance}/services/Soap"
    parts = [
        _HEAD,
        f"   <OrganizationId>{organization}</OrganizationId>\n   <ActionId>{action}</ActionId>\n",
        '   <SessionId xsi:nil="true"/>\n',
        f"   <EnterpriseUrl>{soap}/c/66.0/{organization[:15]}</EnterpriseUrl>\n",
        f"   <PartnerUrl>{soap}/u/66.0/{organization[:15]}</PartnerUrl>\n",
    ]
    for notification, record in notifications:
        parts.append(f"   <Notification>\n    <Id>{notification}</Id>\n")
        parts.append(f'    <sObject xsi:type="sf:{record.type}" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">\n')
        parts.append(f"     <sf:Id>{record.id}</sf:Id>\n")
        for name in sorted(record.values):
            value = record.values[name]
            if name != "Id" and value is not None and name in fields:
                parts.append(f"     <sf:{name}>{_text(value)}</sf:{name}>\n")
        parts.append("    </sObject>\n   </Notification>\n")
    parts.append(_TAIL)
    return "".join(parts).encode()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    # REST writes +0000 where SOAP writes Z.
    if text.endswith("+0000"):
        text = f"{text[:-5]}Z"
    return escape(text.translate(_FORBIDDEN))


def acknowledged(body: bytes) -> bool:
    """Whether an answer holds `<Ack>true</Ack>` in the outbound namespace."""
    try:
        root = fromstring(body)
    except (ParseError, DefusedXmlException, ValueError):
        return False
    found = root.find(f".//{{{_NAMESPACE}}}Ack")
    return found is not None and (found.text or "").strip() == "true"
