"""What a vendor's field means: concept → field name, per object.

Law: a concept is named here once; a field that the account does not have is left out of the map that a reader gets.
Sources: HubSpot's default properties, Salesforce's standard fields of the object reference.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

_NAMES = """email first_name last_name full_name job_title seniority phone mobile_phone company_name company domain website linkedin
    street city state postal_code country lifecycle_stage lead_status lead_source industry employees annual_revenue rating
    amount currency close_date created_at deal_name deal_stage deal_type pipeline description message last_contacted_at
    last_activity_at next_step owner birth_date probability closed won lost_reason subject opted_out language priority
    number_of_contacts number_of_deals number_of_notes converted department founded_year parent company_type"""
CONCEPTS: Final = frozenset(_NAMES.split())

_TEXT: dict[str, dict[str, str]] = {
    "hubspot": {
        "contact": """email=email first_name=firstname last_name=lastname job_title=jobtitle seniority=seniority phone=phone
            mobile_phone=mobilephone company_name=company company=associatedcompanyid website=website street=address city=city
            state=state postal_code=zip country=country lifecycle_stage=lifecyclestage lead_status=hs_lead_status
            lead_source=hs_analytics_source industry=industry employees=numemployees annual_revenue=annualrevenue
            created_at=createdate message=message last_contacted_at=notes_last_contacted last_activity_at=notes_last_updated
            owner=hubspot_owner_id birth_date=date_of_birth opted_out=hs_email_optout language=hs_language
            number_of_deals=num_associated_deals number_of_notes=num_notes linkedin=hs_linkedin_url""",
        "company": """company_name=name domain=domain website=website phone=phone street=address city=city state=state
            postal_code=zip country=country industry=industry employees=numberofemployees annual_revenue=annualrevenue
            description=description lifecycle_stage=lifecyclestage lead_status=hs_lead_status created_at=createdate
            last_contacted_at=notes_last_contacted last_activity_at=notes_last_updated owner=hubspot_owner_id
            founded_year=founded_year linkedin=linkedin_company_page number_of_contacts=num_associated_contacts
            number_of_deals=num_associated_deals number_of_notes=num_notes parent=hs_parent_company_id company_type=type""",
        "deal": """deal_name=dealname amount=amount currency=deal_currency_code close_date=closedate deal_stage=dealstage
            pipeline=pipeline deal_type=dealtype description=description next_step=hs_next_step priority=hs_priority
            probability=hs_deal_stage_probability closed=hs_is_closed won=hs_is_closed_won lost_reason=closed_lost_reason
            created_at=createdate last_contacted_at=notes_last_contacted last_activity_at=notes_last_updated
            owner=hubspot_owner_id number_of_contacts=num_associated_contacts number_of_notes=num_notes
            lead_source=hs_analytics_source""",
        "lead": """full_name=hs_lead_name lead_source=hs_lead_type rating=hs_lead_label pipeline=hs_pipeline
            lead_status=hs_pipeline_stage owner=hubspot_owner_id created_at=hs_createdate""",
        "ticket": """subject=subject description=content pipeline=hs_pipeline deal_stage=hs_pipeline_stage
            priority=hs_ticket_priority owner=hubspot_owner_id created_at=createdate""",
    },
    "salesforce": {
        "lead": """email=Email first_name=FirstName last_name=LastName full_name=Name job_title=Title phone=Phone
            mobile_phone=MobilePhone company_name=Company website=Website street=Street city=City state=State
            postal_code=PostalCode country=Country lead_status=Status lead_source=LeadSource industry=Industry
            employees=NumberOfEmployees annual_revenue=AnnualRevenue rating=Rating description=Description
            created_at=CreatedDate last_activity_at=LastActivityDate owner=OwnerId converted=IsConverted""",
        "contact": """email=Email first_name=FirstName last_name=LastName full_name=Name job_title=Title department=Department
            phone=Phone mobile_phone=MobilePhone company=AccountId street=MailingStreet city=MailingCity state=MailingState
            postal_code=MailingPostalCode country=MailingCountry lead_source=LeadSource description=Description
            birth_date=Birthdate opted_out=HasOptedOutOfEmail created_at=CreatedDate last_activity_at=LastActivityDate
            owner=OwnerId""",
        "company": """company_name=Name website=Website phone=Phone street=BillingStreet city=BillingCity state=BillingState
            postal_code=BillingPostalCode country=BillingCountry industry=Industry employees=NumberOfEmployees
            annual_revenue=AnnualRevenue rating=Rating description=Description company_type=Type parent=ParentId
            lead_source=AccountSource created_at=CreatedDate last_activity_at=LastActivityDate owner=OwnerId""",
        "deal": """deal_name=Name amount=Amount currency=CurrencyIsoCode close_date=CloseDate deal_stage=StageName
            deal_type=Type description=Description next_step=NextStep probability=Probability closed=IsClosed won=IsWon
            company=AccountId lead_source=LeadSource pipeline=ForecastCategoryName created_at=CreatedDate
            last_activity_at=LastActivityDate owner=OwnerId""",
        "ticket": """subject=Subject description=Description priority=Priority deal_stage=Status owner=OwnerId
            created_at=CreatedDate""",
    },
}

MAPS: dict[str, dict[str, dict[str, str]]] = {
    crm: {object_: dict(entry.split("=") for entry in text.split()) for object_, text in objects.items()}
    for crm, objects in _TEXT.items()
}
"""CRM → object → concept → field name."""


def concepts_of(crm: str, object: str, known: Collection[str]) -> dict[str, str]:  # noqa: A002 - our word
    """The map for one object, of fields that this account has."""
    return {concept: name for concept, name in MAPS.get(crm, {}).get(object, {}).items() if name in known}
