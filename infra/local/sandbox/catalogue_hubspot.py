"""HubSpot's standard properties, by their true names, as far as the stand-in's people fill them in.

Law: nothing of this product is in here; its properties are created through the API like anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_TEXT = 65_536
"""HubSpot's limit for a text value, in characters."""


@dataclass(slots=True)
class Property:
    """One property's definition, for either vendor; `options` are (value, label) pairs."""

    name: str
    label: str
    type: str
    field_type: str
    group: str = ""
    options: tuple[tuple[str, str], ...] = ()
    description: str = ""
    custom: bool = False
    read_only: bool = False
    unique: bool = False
    length: int = MAX_TEXT
    created: int = 0
    extra: dict[str, object] = field(default_factory=dict)


def _options(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, name.replace("_", " ").capitalize()) for name in names)


LIFECYCLE = (
    ("subscriber", "Subscriber"),
    ("lead", "Lead"),
    ("marketingqualifiedlead", "Marketing Qualified Lead"),
    ("salesqualifiedlead", "Sales Qualified Lead"),
    ("opportunity", "Opportunity"),
    ("customer", "Customer"),
    ("evangelist", "Evangelist"),
    ("other", "Other"),
)
LEAD_STATUS = _options(
    "NEW", "OPEN", "IN_PROGRESS", "OPEN_DEAL", "UNQUALIFIED", "ATTEMPTED_TO_CONTACT", "CONNECTED", "BAD_TIMING"
)
DEAL_STAGES = (
    ("appointmentscheduled", "Appointment Scheduled"),
    ("qualifiedtobuy", "Qualified To Buy"),
    ("presentationscheduled", "Presentation Scheduled"),
    ("decisionmakerboughtin", "Decision Maker Bought-In"),
    ("contractsent", "Contract Sent"),
    ("closedwon", "Closed Won"),
    ("closedlost", "Closed Lost"),
)
_ENUMS: dict[str, tuple[tuple[str, str], ...]] = {
    "lifecyclestage": LIFECYCLE,
    "hs_lead_status": LEAD_STATUS,
    "dealstage": DEAL_STAGES,
    "pipeline": (("default", "Sales Pipeline"),),
    "dealtype": (("newbusiness", "New Business"), ("existingbusiness", "Existing Business")),
    "hs_priority": _options("low", "medium", "high"),
    "type": _options("PROSPECT", "PARTNER", "RESELLER", "VENDOR", "OTHER"),
    "hs_email_direction": _options("EMAIL", "INCOMING_EMAIL", "FORWARDED_EMAIL"),
    "hs_email_status": _options("SENT", "BOUNCED", "FAILED", "SCHEDULED"),
    "hs_task_status": _options("NOT_STARTED", "IN_PROGRESS", "WAITING", "COMPLETED", "DEFERRED"),
}
_READ_ONLY = frozenset(
    {"hs_object_id", "createdate", "lastmodifieddate", "hs_lastmodifieddate", "hs_createdate", "num_notes", "notes_last_updated",
     "num_associated_contacts", "num_associated_deals", "hs_deal_stage_probability", "hs_is_closed", "hs_merged_object_ids"}
)  # fmt: skip
_SYNC = "last_synced_at=Last synced at:datetime external_sync_hash=External sync hash marketing_touch_count=Marketing touches:number"
"""Custom properties of another integration, which it rewrites without anything having happened."""

_TABLE: dict[str, str] = {
    "contacts": """firstname=First Name lastname=Last Name email=Email phone=Phone Number mobilephone=Mobile Phone Number
        jobtitle=Job Title company=Company Name website=Website URL address=Street Address city=City state=State/Region
        zip=Postal Code country=Country/Region industry=Industry seniority=Seniority annualrevenue=Annual Revenue
        numemployees=Number of Employees message=Message:textarea lifecyclestage=Lifecycle Stage:enumeration
        hs_lead_status=Lead Status:enumeration hubspot_owner_id=Contact owner associatedcompanyid=Primary Associated Company ID
        hs_language=Preferred language hs_email_optout=Unsubscribed from all email:bool notes_last_contacted=Last Contacted:datetime
        notes_last_updated=Last Activity Date:datetime num_notes=Number of Sales Activities:number
        num_associated_deals=Number of Associated Deals:number hs_analytics_source=Original Traffic Source
        hs_analytics_last_timestamp=Time Last Seen:datetime createdate=Create Date:datetime
        lastmodifieddate=Last Modified Date:datetime hs_object_id=Record ID:number""",
    "companies": """name=Company name domain=Company Domain Name website=Website URL phone=Phone Number address=Street Address
        address2=Street Address 2 city=City state=State/Region zip=Postal Code country=Country/Region industry=Industry
        numberofemployees=Number of Employees:number annualrevenue=Annual Revenue:number type=Type:enumeration
        description=Description:textarea founded_year=Year Founded linkedin_company_page=LinkedIn Company Page timezone=Time Zone
        lifecyclestage=Lifecycle Stage:enumeration hs_lead_status=Lead Status:enumeration hubspot_owner_id=Company owner
        num_associated_contacts=Number of Associated Contacts:number num_associated_deals=Number of Associated Deals:number
        notes_last_updated=Last Activity Date:datetime num_notes=Number of Sales Activities:number
        hs_analytics_last_timestamp=Time Last Seen:datetime createdate=Create Date:datetime
        hs_lastmodifieddate=Last Modified Date:datetime hs_object_id=Record ID:number""",
    "deals": """dealname=Deal Name amount=Amount:number closedate=Close Date:datetime dealstage=Deal Stage:enumeration
        pipeline=Pipeline:enumeration dealtype=Deal Type:enumeration description=Deal Description:textarea
        hubspot_owner_id=Deal owner deal_currency_code=Currency hs_priority=Priority:enumeration hs_next_step=Next Step
        closed_lost_reason=Closed Lost Reason:textarea closed_won_reason=Closed Won Reason:textarea
        hs_deal_stage_probability=Deal probability:number hs_is_closed=Is Deal Closed?:bool
        num_associated_contacts=Number of Associated Contacts:number notes_last_contacted=Last Contacted:datetime
        notes_last_updated=Last Activity Date:datetime num_notes=Number of Sales Activities:number
        hs_analytics_last_timestamp=Time Last Seen:datetime createdate=Create Date:datetime
        hs_lastmodifieddate=Last Modified Date:datetime hs_object_id=Record ID:number""",
    "tickets": """subject=Ticket name content=Ticket description:textarea hs_pipeline=Pipeline hs_pipeline_stage=Ticket status
        hs_ticket_priority=Priority hubspot_owner_id=Ticket owner createdate=Create Date:datetime
        hs_lastmodifieddate=Last Modified Date:datetime hs_object_id=Record ID:number""",
    "leads": """hs_lead_name=Lead Name hs_lead_type=Lead Type hs_lead_label=Lead Label hs_pipeline=Lead Pipeline
        hs_pipeline_stage=Lead Pipeline Stage hubspot_owner_id=Lead Owner hs_createdate=Create Date:datetime
        hs_lastmodifieddate=Last Modified Date:datetime hs_object_id=Record ID:number""",
    "notes": """hs_note_body=Note body:textarea hs_timestamp=Activity date:datetime hubspot_owner_id=Activity assigned to
        hs_attachment_ids=Attachment IDs hs_createdate=Create date:datetime hs_lastmodifieddate=Last modified:datetime
        hs_object_id=Record ID:number""",
    "emails": """hs_email_subject=Email subject hs_email_text=Text of email:textarea hs_email_html=HTML of email:textarea
        hs_email_direction=Email direction:enumeration hs_email_status=Email send status:enumeration
        hs_email_headers=Email headers:textarea hs_email_from_email=Email from address hs_email_to_email=Email to address
        hs_timestamp=Activity date:datetime hubspot_owner_id=Activity assigned to hs_createdate=Create date:datetime
        hs_lastmodifieddate=Last modified:datetime hs_object_id=Record ID:number""",
    "tasks": """hs_task_subject=Task title hs_task_body=Notes:textarea hs_task_status=Task status:enumeration
        hs_task_priority=Priority hs_timestamp=Due date:datetime hubspot_owner_id=Assigned to hs_createdate=Create date:datetime
        hs_lastmodifieddate=Last modified:datetime hs_object_id=Record ID:number""",
}
_FIELD_TYPES = {
    "datetime": "date",
    "number": "number",
    "enumeration": "select",
    "bool": "booleancheckbox",
    "textarea": "textarea",
}
GROUPS: dict[str, tuple[str, str]] = {
    "contacts": ("contactinformation", "Contact information"),
    "companies": ("companyinformation", "Company information"),
    "deals": ("dealinformation", "Deal information"),
    "tickets": ("ticketinformation", "Ticket information"),
    "leads": ("lead_information", "Lead information"),
    "notes": ("note", "Note information"),
    "emails": ("email", "Email information"),
    "tasks": ("task", "Task information"),
}


def _parse(text: str, group: str, *, custom: bool = False) -> dict[str, Property]:
    """Definitions from `name=Label with spaces[:type]`, separated by white space."""
    found: dict[str, Property] = {}
    entries: list[str] = []
    for word in text.split():
        if "=" in word:
            entries.append(word)
        else:
            entries[-1] += f" {word}"
    for entry in entries:
        name, _, rest_of_entry = entry.partition("=")
        label, *rest = rest_of_entry.split(":")
        kind = rest[0] if rest else "string"
        found[name] = Property(
            name=name,
            label=label,
            type="string" if kind == "textarea" else kind,
            field_type=_FIELD_TYPES.get(kind, "text"),
            group=group,
            options=_ENUMS.get(name, (("true", "Yes"), ("false", "No")) if kind == "bool" else ()),
            custom=custom,
            read_only=name in _READ_ONLY,
            unique=name in {"email", "hs_object_id"} and kind != "textarea",
        )
    return found


def standard_properties() -> dict[str, dict[str, Property]]:
    """A fresh copy of the standard definitions, by object type's plural and property name."""
    catalogue = {plural: _parse(text, GROUPS[plural][0]) for plural, text in _TABLE.items()}
    for plural in ("contacts", "companies", "deals", "tickets"):
        catalogue[plural].update(_parse("hs_merged_object_ids=Merged record IDs", GROUPS[plural][0]))
    for plural in ("contacts", "companies", "deals"):
        catalogue[plural].update(_parse(_SYNC, GROUPS[plural][0], custom=True))
    return catalogue
