"""Salesforce's standard fields, by their true API names, as far as the stand-in's people fill them in.

Law: nothing of this product is in here; its custom fields are created through the Tooling API like anybody's.
"""

from __future__ import annotations

from infra.local.sandbox.catalogue_hubspot import Property

LEAD_STATUS = ("Open - Not Contacted", "Working - Contacted", "Closed - Converted", "Closed - Not Converted")
STAGES = (
    "Prospecting",
    "Qualification",
    "Needs Analysis",
    "Value Proposition",
    "Id. Decision Makers",
    "Perception Analysis",
    "Proposal/Price Quote",
    "Negotiation/Review",
    "Closed Won",
    "Closed Lost",
)
_PICKLISTS: dict[str, tuple[str, ...]] = {
    "Lead.Status": LEAD_STATUS,
    "Opportunity.StageName": STAGES,
    "Rating": ("Hot", "Warm", "Cold"),
    "LeadSource": ("Web", "Phone Inquiry", "Partner Referral", "Purchased List", "Other"),
    "Task.Status": ("Not Started", "In Progress", "Completed", "Waiting on someone else", "Deferred"),
    "Task.Priority": ("High", "Normal", "Low"),
}
_SYSTEM = """Id:id OwnerId:reference IsDeleted:boolean CreatedDate:datetime CreatedById:reference LastModifiedDate:datetime
    LastModifiedById:reference SystemModstamp:datetime"""
_TABLE: dict[str, str] = {
    "Lead": """MasterRecordId:reference Salutation:40 FirstName:40 LastName:80 Name:121 Title:128 Company:255 Street:textarea City:40 State:80
        PostalCode:20 Country:80 Phone:phone MobilePhone:phone Email:email Website:url Description:textarea
        LeadSource:picklist Status:picklist Industry:255 Rating:picklist AnnualRevenue:currency NumberOfEmployees:int
        IsConverted:boolean LastActivityDate:date Last_Synced_At__c:datetime""",
    "Contact": """MasterRecordId:reference AccountId:reference Salutation:40 FirstName:40 LastName:80 Name:121 Title:128 Department:80
        MailingStreet:textarea MailingCity:40 MailingState:80 MailingPostalCode:20 MailingCountry:80 Phone:phone
        MobilePhone:phone Email:email Description:textarea LeadSource:picklist LastActivityDate:date Last_Synced_At__c:datetime""",
    "Account": """MasterRecordId:reference Name:255 Type:255 ParentId:reference BillingStreet:textarea BillingCity:40 BillingState:80
        BillingPostalCode:20 BillingCountry:80 Phone:phone Website:url Industry:255 AnnualRevenue:currency
        NumberOfEmployees:int Description:textarea Rating:picklist LastActivityDate:date Last_Synced_At__c:datetime""",
    "Opportunity": """AccountId:reference Name:120 Description:textarea StageName:picklist Amount:currency
        Probability:percent CloseDate:date Type:255 NextStep:255 LeadSource:picklist IsClosed:boolean IsWon:boolean
        ForecastCategoryName:40 LastActivityDate:date Last_Synced_At__c:datetime""",
    "Task": """WhoId:reference WhatId:reference Subject:255 ActivityDate:date Status:picklist Priority:picklist
        Description:textarea TaskSubtype:40 Type:40""",
    "EmailMessage": """ParentId:reference RelatedToId:reference ActivityId:reference Subject:3000 TextBody:textarea
        HtmlBody:textarea FromAddress:1000 ToAddress:4000 Incoming:boolean MessageDate:datetime Status:40""",
    "Note": "ParentId:reference Title:80 Body:textarea IsPrivate:boolean",
    "ContentNote": "Title:255 Content:textarea TextPreview:255 FileType:20",
    "OpportunityContactRole": "OpportunityId:reference ContactId:reference Role:40 IsPrimary:boolean",
    "User": "Name:121 Username:80 Email:email IsActive:boolean",
    "Organization": "Name:80 OrganizationType:40 InstanceName:5 IsSandbox:boolean",
}
_COMPUTED = frozenset(
    {"Id", "Name", "IsDeleted", "CreatedDate", "CreatedById", "LastModifiedDate", "LastModifiedById", "SystemModstamp", "IsClosed",
     "IsWon", "LastActivityDate", "TextPreview", "MasterRecordId"}
)  # fmt: skip
_LENGTHS = {"textarea": 32_000, "phone": 40, "email": 80, "url": 255, "id": 18, "reference": 18, "picklist": 255}


def _label(name: str) -> str:
    """`LastModifiedDate` becomes `Last Modified Date`."""
    text = name.removesuffix("__c").replace("_", " ")
    return "".join(f" {c}" if c.isupper() and i and text[i - 1].islower() else c for i, c in enumerate(text))


def standard_fields() -> dict[str, dict[str, Property]]:
    """A fresh copy of the standard definitions, by object and field name."""
    catalogue: dict[str, dict[str, Property]] = {}
    for name, text in _TABLE.items():
        fields: dict[str, Property] = {}
        for entry in f"{_SYSTEM} {text}".split():
            field, kind = entry.split(":")
            length = int(kind) if kind.isdigit() else _LENGTHS.get(kind, 0)
            # The name of a person is put together from its parts; any other record's name is written.
            computed = field in _COMPUTED and not (field == "Name" and name in {"Account", "Opportunity"})
            fields[field] = Property(
                name=field,
                label=_label(field),
                type="string" if kind.isdigit() else kind,
                field_type=kind,
                options=tuple((value, value) for value in _PICKLISTS.get(f"{name}.{field}", _PICKLISTS.get(field, ()))),
                custom=field.endswith("__c"),
                read_only=computed,
                length=length,
            )
        catalogue[name] = fields
    return catalogue
