"""Plausible, clean CRM records of both vendors, from a seed: what data quality should find nothing wrong with.

Written without looking at the checker's lists: places, numbers and titles as they stand in real CRMs of mid-size sellers.
"""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from infra.crm.concepts import MAPS
from schemas.record import ObjectType, RecordSnapshot

TODAY = date(2026, 11, 20)


@dataclass(frozen=True, slots=True)
class Place:
    """A city as an address has it."""

    city: str
    state: str
    postal: str
    country: str
    phone: str
    """With # for random digits."""


_PLACES = tuple(
    Place(*line.split("|"))
    for line in """
    Chicago|Illinois|60614|United States|+1 312 555 01##
    Boston|MA|02110|USA|(617) 555-01##
    Austin|TX|78701|United States|+1 512-555-01##
    Portland|Oregon|97205|United States|503-555-01##
    Grand Rapids|MI|49503-1412|US|+1 (616) 555-01##
    Sacramento|California|95814|United States of America|916.555.01##
    Toronto|Ontario|M5V 2T6|Canada|+1 416 555 01##
    Halifax|Nova Scotia|B3J 1S9|Canada|+1 902 555 01##
    London||SW1A 2AA|United Kingdom|+44 20 7946 0###
    Leeds||LS1 4AP|United Kingdom|0113 496 0###
    Manchester||M1 1AE|UK|+44 161 496 0###
    Edinburgh|Scotland|EH1 1YZ|United Kingdom|+44 131 496 0###
    Cheltenham||GL50 1HX|England|01242 496###
    Berlin|Berlin|10115|Germany|+49 30 2345####
    München|Bayern|80331|Deutschland|+49 89 3456####
    Hamburg||20095|Germany|040 4567####
    Wuppertal|Nordrhein-Westfalen|42103|Germany|+49 202 567###
    Freiburg im Breisgau|Baden-Württemberg|79098|Germany|+49 761 345###
    Wien||1010|Österreich|+43 1 5123###
    Linz||4020|Austria|+43 732 678###
    Zürich|ZH|8001|Switzerland|+41 44 211 ## ##
    Lausanne|VD|1003|Schweiz|+41 21 320 ## ##
    Paris|Île-de-France|75008|France|+33 1 42 68 ## ##
    Lyon||69002|France|04 72 41 ## ##
    Villeurbanne||69100|France|+33 4 78 03 ## ##
    Amsterdam||1012 AB|Netherlands|+31 20 555 0###
    Eindhoven|Noord-Brabant|5611 EM|The Netherlands|+31 40 234 ####
    Antwerpen||2000|Belgium|+32 3 231 ## ##
    Madrid||28013|Spain|+34 91 523 ## ##
    Donostia-San Sebastián||20004|Spain|+34 943 42 ## ##
    Milano|MI|20121|Italy|+39 02 8646 ####
    Reggio Emilia||42121|Italia|+39 0522 45####
    Stockholm||111 29|Sweden|+46 8 440 ## ##
    Jönköping||553 16|Sverige|+46 36 10 ## ##
    Oslo||0150|Norway|+47 22 41 ## ##
    København||1050|Denmark|+45 33 12 ## ##
    Helsinki||00100|Finland|+358 9 6122 ###
    Kraków||31-042|Poland|+48 12 422 ## ##
    Praha||110 00|Czech Republic|+420 224 21# ###
    Lisboa||1100-148|Portugal|+351 21 342 ## ##
    Dublin||D02 AF30|Ireland|+353 1 671 ####
    Sydney|NSW|2000|Australia|+61 2 9374 ####
    Geelong|Victoria|3220|Australia|03 5229 ####
    Auckland||1010|New Zealand|+64 9 366 ####
    Bengaluru|Karnataka|560001|India|+91 80 2558 ####
    Pune|Maharashtra|411001|India|+91 20 2613 ####
    Singapore||048619|Singapore|+65 6532 ####
    Tokyo||100-0005|Japan|+81 3 3211 ####
    São Paulo|SP|01310-100|Brazil|+55 11 3253 ####
    Ciudad de México|CDMX|06000|Mexico|+52 55 5512 ####
    """.strip().splitlines()
    for line in [line.strip()]
)
_FIRST = [
    "Anna",
    "James",
    "Priya",
    "Wei",
    "Lukas",
    "Sofia",
    "Omar",
    "Hannah",
    "Diego",
    "Ingrid",
    "Jean-Luc",
    "Aoife",
    "Yuki",
    "Fatima",
    "Tom",
    "Li",
    "Bo",
    "Zoë",
    "Matteo",
    "Katarzyna",
    "Noor",
    "Sinéad",
    "Rajesh",
    "Chloe",
    "Björn",
    "Mary-Ann",
    "Ian",
    "Eve",
    "Søren",
    "Beatriz",
]
_LAST = [
    "Keller",
    "O'Brien",
    "Patel",
    "van den Berg",
    "García Márquez",
    "Nakamura",
    "Ng",
    "Wu",
    "Schmidt-Rottluff",
    "Johansson",
    "Dubois",
    "De Luca",
    "Kowalski",
    "Smith",
    "Li",
    "MacDonald",
    "Müller",
    "Rossi",
    "Novák",
    "Østergaard",
    "Fernandes",
    "Ali",
    "Young",
    "Best",
    "Price",
    "Ray",
    "Cho",
]
_TITLES = [
    "Head of Procurement",
    "VP Sales",
    "Chief Financial Officer",
    "IT Manager",
    "Senior Software Engineer",
    "Managing Director",
    "Plant Manager",
    "Buyer",
    "CEO",
    "Operations Lead",
    "Director of Customer Success",
    "Office Manager",
    "Geschäftsführerin",
    "Leiter Einkauf",
    "Marketing Coordinator",
    "Founder & CTO",
    "Data Protection Officer",
    "Purchasing Specialist",
    "HR Business Partner",
    "Lab Technician",
    "Regional Sales Director EMEA",
    "Responsable Achats",
    "Assistant Controller",
    "Product Owner",
    "Director, Revenue Operations",
    "Logistics Planner",
    "Chef de projet",
    "Freelance Consultant",
    "Scrum Master",
    "Key Account Manager",
]
_NAMES = [
    "Northwind Traders",
    "Contoso Pharmaceuticals",
    "Blue Yonder Airlines",
    "Meridian Optics",
    "Halvorsen Marine",
    "Kestrel & Sons",
    "Aurora Bakeries",
    "Fabrik Eins",
    "Tailspin Toys",
    "Oak Street Health",
    "Brightwater",
    "Lindqvist Timber",
    "Casa Verde",
    "Pixel Foundry",
    "Ironbridge Castings",
    "Sable Analytics",
    "Umbra Textiles",
    "Novo Freight",
    "Harbour Lane",
    "Quarry Systems",
    "Delphi Instruments",
    "Papillon Cosmetics",
    "Redwood Dental",
    "Alpine Ropeways",
    "Sterling Bearings",
    "Monarch Print",
    "Lumen Health",
    "Test Valley Brewing",
    "Nordlicht Energie",
    "Zephyr Cycles",
]
_FORMS = ("", " GmbH", " Ltd", " Inc.", " AG", " B.V.", " S.A.", " LLC", " Group")
_TLDS = ("com", "com", "com", "net", "io", "co.uk", "de", "eu", "org", "tech")
_INDUSTRIES = (
    "COMPUTER_SOFTWARE",
    "Manufacturing",
    "RETAIL",
    "Health Care",
    "LOGISTICS_AND_SUPPLY_CHAIN",
    "Food & Beverage",
    "Energy",
)
_SOURCES = {
    "hubspot": ("ORGANIC_SEARCH", "DIRECT_TRAFFIC", "REFERRALS", "OFFLINE"),
    "salesforce": ("Web", "Phone Inquiry", "Partner Referral", "Other"),
}
_OPEN = {
    "hubspot": (
        "appointmentscheduled",
        "qualifiedtobuy",
        "presentationscheduled",
        "decisionmakerboughtin",
        "contractsent",
    ),
    "salesforce": ("Prospecting", "Qualification", "Needs Analysis", "Proposal/Price Quote", "Negotiation/Review"),
}
_MAIL = (
    "gmail.com",
    "outlook.com",
    "yahoo.com",
    "gmx.de",
    "hotmail.co.uk",
    "icloud.com",
    "web.de",
    "orange.fr",
    "proton.me",
    "mail.com",
    "bluewin.ch",
)
KINDS: tuple[tuple[str, ObjectType], ...] = (
    ("hubspot", "contact"), ("hubspot", "company"), ("hubspot", "deal"), ("salesforce", "lead"), ("salesforce", "contact"),
    ("salesforce", "company"), ("salesforce", "deal"),
)  # fmt: skip


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("ø", "o").replace("Ø", "O").replace("ß", "ss"))
    return re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode().casefold()).strip("-")


class Clean:
    """A stream of clean records; the same seed, the same records."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._made = 0

    def record(self) -> RecordSnapshot:
        """The next record; kinds take turns."""
        crm, kind = KINDS[self._made % len(KINDS)]
        self._made += 1
        values = {"deal": self._deal, "company": self._company}.get(kind, self._person)(crm, kind)
        concepts = MAPS[crm][kind]
        fields = {concepts[concept]: value for concept, value in values.items() if concept in concepts and value}
        modified = datetime(2026, 11, 18, self._random.randrange(24), tzinfo=UTC)
        return RecordSnapshot(
            tenant="bench",
            account=f"{crm}:1",
            object=kind,
            id=str(self._made),
            crm=crm,
            fields=fields,
            known_fields=tuple(concepts.values()),
            concepts=concepts,
            modified_at=modified,
            read_at=modified,
            owner="005",
        )

    def _days(self, least: int, most: int) -> date:
        return TODAY + timedelta(days=self._random.randint(least, most))

    def _moment(self, crm: str, day: date) -> str:
        clock = f"{self._random.randrange(24):02}:{self._random.randrange(60):02}:00.000"
        return f"{day.isoformat()}T{clock}{'Z' if crm == 'hubspot' else '+0000'}"

    def _number(self, pattern: str) -> str:
        return re.sub("#", lambda _: str(self._random.randrange(10)), pattern)

    def _business(self) -> tuple[str, str]:
        name = self._random.choice(_NAMES)
        return name + self._random.choice(_FORMS), f"{_ascii(name)}.{self._random.choice(_TLDS)}"

    def _person(self, crm: str, kind: str) -> dict[str, str]:
        draw = self._random
        first, last, place = draw.choice(_FIRST), draw.choice(_LAST), draw.choice(_PLACES)
        company, domain = self._business()
        private = draw.random() < 0.15
        host = draw.choice(_MAIL) if private else domain
        created = self._days(-400, -3)
        lifecycle = draw.choice(
            ("subscriber", "lead", "marketingqualifiedlead", "salesqualifiedlead", "opportunity", "customer")
        )
        status = {
            "hubspot": {"customer": "CONNECTED", "opportunity": "OPEN_DEAL"}.get(
                lifecycle, draw.choice(("OPEN", "IN_PROGRESS", "CONNECTED", "ATTEMPTED_TO_CONTACT"))
            ),
            "salesforce": "Working - Contacted",
        }[crm]
        contacted = max(created, self._days(-50, -1))
        values = {
            "first_name": first,
            "last_name": last,
            "full_name": f"{first} {last}",
            "email": f"{_ascii(first)}.{_ascii(last)}@{host}",
            "phone": self._number(place.phone),
            "mobile_phone": "",
            "job_title": draw.choice(_TITLES),
            "company_name": company,
            "company": "0015g00000Abcde" if crm == "salesforce" and kind == "contact" else "",
            "website": (f"https://www.{domain}/" if draw.random() < 0.5 else domain) if draw.random() < 0.7 else "",
            "city": place.city,
            "state": place.state,
            "postal_code": place.postal,
            "country": place.country,
            "lead_source": draw.choice(_SOURCES[crm]),
            "lifecycle_stage": lifecycle,
            "lead_status": status,
            "number_of_deals": "2" if lifecycle in {"customer", "opportunity"} else "0",
            "created_at": self._moment(crm, created),
            "last_contacted_at": self._moment(crm, contacted) if crm == "hubspot" else "",
            "last_activity_at": self._moment(crm, contacted) if crm == "hubspot" else contacted.isoformat(),
            "birth_date": self._days(-22000, -8500).isoformat() if draw.random() < 0.3 else "",
            "employees": draw.choice(("12", "240", "51-200", "1800"))
            if crm == "hubspot"
            else draw.choice(("12", "240", "1800")),
            "annual_revenue": draw.choice(("", "1500000", "25000000.0")),
            "converted": "false" if kind == "lead" else "",
            "department": "Purchasing" if draw.random() < 0.3 else "",
            "industry": draw.choice(_INDUSTRIES),
        }
        if kind == "contact" and crm == "salesforce":
            values["website"] = ""
        return values

    def _company(self, crm: str, _kind: str) -> dict[str, str]:
        draw = self._random
        place = draw.choice(_PLACES)
        company, domain = self._business()
        return {
            "company_name": company,
            "domain": domain,
            "website": f"http://{domain}" if draw.random() < 0.5 or crm == "salesforce" else "",
            "phone": self._number(place.phone),
            "city": place.city,
            "state": place.state,
            "postal_code": place.postal,
            "country": place.country,
            "industry": draw.choice(_INDUSTRIES),
            "employees": str(draw.randrange(5, 4000)),
            "annual_revenue": str(draw.randrange(1, 900) * 100_000),
            "created_at": self._moment(crm, self._days(-900, -3)),
            "last_activity_at": self._days(-80, -1).isoformat(),
        }

    def _deal(self, crm: str, _kind: str) -> dict[str, str]:
        draw = self._random
        company, _ = self._business()
        created = self._days(-150, -15)
        outcome = draw.choice(("open", "open", "open", "won", "lost"))
        stage = (
            draw.choice(_OPEN[crm])
            if outcome == "open"
            else {"hubspot": f"closed{outcome}", "salesforce": f"Closed {outcome.capitalize()}"}[crm]
        )
        full, part = (
            ("1.0", f"0.{draw.randrange(1, 9)}") if crm == "hubspot" else ("100.0", f"{draw.randrange(1, 9)}0.0")
        )
        close = self._days(5, 160) if outcome == "open" else created + timedelta(days=draw.randrange(5, 14))
        return {
            "deal_name": f"{company} - {draw.choice(('Renewal 2027', 'Rollout phase 2', 'Pilot', 'Platform licence', '50 seats'))}",
            "amount": draw.choice(("4800", "12500.50", "98000", "250000.0")),
            "close_date": self._moment(crm, close) if crm == "hubspot" else close.isoformat(),
            "deal_stage": stage,
            "pipeline": "default",
            "probability": {"won": full, "lost": "0.0"}.get(outcome, part),
            "closed": str(outcome != "open").lower(),
            "won": str(outcome == "won").lower() if crm == "salesforce" else "",
            "lost_reason": "Chose a competitor" if outcome == "lost" else "",
            "next_step": draw.choice(("Send revised quote", "Call with CFO on Tuesday", "Demo for the plant team"))
            if outcome == "open"
            else "",
            "created_at": self._moment(crm, created),
            "last_contacted_at": self._moment(crm, max(created, self._days(-30, -1))) if crm == "hubspot" else "",
            "last_activity_at": max(created, self._days(-30, -1)).isoformat(),
        }
