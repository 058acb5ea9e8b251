"""What values are compared with: places, mail providers, top-level domains, titles, placeholders.

Law: lists and look-ups, no judgement. Places come from libphonenumber (`places/`, made by bench/reference_lists.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from functools import cache, lru_cache
from importlib.resources import files

from processors.analyses.lead_intel.opinions import FREE_MAIL

MAIL_PROVIDERS = FREE_MAIL

TYPED_TLDS = ("com", "net", "org", "de", "co.uk", "io", "fr", "eu")
"""Top-level domains that people mean when they mistype one."""
_TLDS_TEXT = """
    com net org info biz edu gov mil int io ai app dev co me tv cc xyz online site shop store tech cloud agency
    consulting group company solutions services systems software digital media studio design global
    international world network team works email energy health care clinic dental legal law finance capital
    ventures partners holdings industries engineering construction properties estate travel tours hotel
    restaurant cafe bar club events news blog academy school university college jobs pro name mobi asia cat coop
    museum aero post tel berlin hamburg koeln bayern wien london paris nyc amsterdam swiss bank insurance gmbh
    ltd inc llc example test land farm garden house immo haus auto cars bike taxi fit fitness run center zone
    city town community foundation ngo church training education guru expert support help tools parts supply
    equipment chemistry audio video photo photos photography pictures gallery art fashion style beauty salon spa
    yoga sport football golf tennis hockey racing games game play fun cool wiki page web website host hosting
    domains link click download live today life love rocks best top vip one space earth green eco bio organic
    wine beer pizza coffee food kitchen recipes market markets trade trading exchange fund money cash tax
    accountants accountant gold cam bom how moda new now ceo cfd
"""
TLDS = frozenset(_TLDS_TEXT.split())
"""Common generic ones; any two letters are taken for a country's."""

_ALIASES = {
    "US": "USA|U.S.A.|U.S.|US|United States of America|America",
    "GB": "UK|U.K.|Great Britain|Britain|England|Scotland|Wales|Northern Ireland|GB",
    "NL": "Holland|The Netherlands",
    "CZ": "Czech Republic|Czechia",
    "KR": "South Korea|Korea|Republic of Korea",
    "AE": "UAE|United Arab Emirates",
    "RU": "Russia|Russian Federation",
    "CN": "PR China|People's Republic of China",
    "VN": "Vietnam|Viet Nam",
    "TR": "Turkey|Türkiye",
    "IE": "Republic of Ireland|Éire",
    "CH": "Schweiz/Suisse/Svizzera",
    "ES": "España",
    "SE": "Sverige",
    "NO": "Norge",
    "DK": "Danmark",
    "AT": "Österreich",
    "PL": "Polska",
    "BE": "België",
    "IT": "Italia",
    "FI": "Suomi",
}
_MORE_CITIES = {
    "DE": "Berlin|Hamburg|Stuttgart|Leipzig|Dresden|Hannover|Bremen|Essen|Dortmund|Duisburg|Bochum|Wuppertal|Bielefeld|Bonn|Münster|Karlsruhe|Augsburg|Wiesbaden|Aachen|Kiel|Frankfurt|Frankfurt am Main|Köln|München|Nürnberg|Düsseldorf|Mannheim|Freiburg|Halle|Mülheim|Offenbach|Ludwigshafen am Rhein",
    "CH": "Zürich|Genève|Genf|Geneva|Basel|Bern|Lausanne|Luzern|Lucerne|Winterthur|St. Gallen|Zug|Lugano|Biel",
    "AT": "Wien|Graz|Linz|Salzburg|Innsbruck|Klagenfurt|Wels|Villach",
    "DK": "Copenhagen|København|Aarhus|Odense|Aalborg",
    "IT": "Milano|Roma|Torino|Napoli|Firenze|Florence|Venezia|Venice|Genova|Genoa|Bologna|Padova|Verona|Naples|Rome|Milan",
    "ES": "Madrid|Valencia|Seville|Barcelona|Sevilla|Bilbao|Zaragoza|Málaga|Murcia|Palma|Granada|Córdoba|Vigo|Gijón",
    "PT": "Lisbon|Lisboa|Porto|Braga|Coimbra",
    "NL": "Amsterdam|Rotterdam|Eindhoven|Groningen|Tilburg|Breda|The Hague|'s-Gravenhage|Utrecht|Leiden|Maastricht|Nijmegen|Hilversum|Zwolle|Amstelveen",
    "BE": "Brussels|Bruxelles|Brussel|Antwerp|Antwerpen|Ghent|Gent|Bruges|Brugge|Leuven|Liège",
    "GB": "London|Birmingham|Leeds|Sheffield|Manchester|Liverpool|Bristol|Leicester|Coventry|Nottingham|Plymouth|Derby|Reading|Oxford|Cambridge|York|Exeter|Aberdeen|Dundee|Newcastle upon Tyne|Newcastle|Stoke-on-Trent|Brighton|Milton Keynes|Kingston upon Hull|Hull|Wolverhampton|Southampton|Portsmouth|St Albans|Bolton|"
    "Walsall|Sunderland|Salford|Bradford|Luton|Northampton|Belfast|Cardiff|Swansea|Glasgow|Edinburgh|Poole|Bournemouth|Croydon|Slough|Crawley|Rochdale",
    "US": "New York|Los Angeles|Chicago|Houston|Phoenix|Philadelphia|San Antonio|San Diego|Dallas|San Jose|Austin|Jacksonville|Columbus|Charlotte|Indianapolis|San Francisco|Seattle|Denver|Nashville|Boston|Detroit|Portland|Las Vegas|Memphis|Baltimore|Milwaukee|Sacramento|Atlanta|Miami|Cleveland|Pittsburgh|Cincinnati|Orlando|Tampa|New York City|Saint Paul|St. Louis|Saint Louis|Fort Worth|Washington|Washington DC|Salt Lake City|Minneapolis|Raleigh|Boise|Charleston|Palo Alto|Mountain View|"
    "Menlo Park|Redwood City|Cupertino|Brooklyn|Cambridge|Boulder|Bellevue|Scottsdale|Plano",
    "CA": "Toronto|Montreal|Montréal|Vancouver|Calgary|Ottawa|Edmonton|Winnipeg|Quebec|Québec|Halifax|Mississauga|Waterloo|Victoria|Burnaby",
    "IN": "Bengaluru|Bangalore|Mumbai|Delhi|New Delhi|Kolkata|Chennai|Hyderabad|Pune|Gurgaon|Gurugram|Noida|Ahmedabad|Jaipur",
    "IE": "Dublin|Cork|Galway|Limerick|Waterford",
    "SE": "Stockholm|Göteborg|Gothenburg|Malmö|Uppsala|Lund",
    "NO": "Oslo|Bergen|Trondheim|Stavanger",
    "FI": "Helsinki|Espoo|Tampere|Turku|Oulu|Vantaa",
    "PL": "Warsaw|Warszawa|Kraków|Krakow|Cracow|Wrocław|Wroclaw|Gdańsk|Poznań|Łódź|Katowice",
    "CZ": "Prague|Praha|Brno|Ostrava",
    "FR": "Villeurbanne|Le Havre|Reims|Dijon|Angers|Nîmes|Clermont-Ferrand|Toulon|Boulogne-Billancourt|Metz|Tours|Orléans|Paris|Lyon|Marseille|Saint-Denis|Aix-en-Provence|Grenoble|Nice|Nantes|Toulouse|Lille|Strasbourg|Bordeaux|Rennes|Montpellier",
    "AU": "Canberra|Sydney|Melbourne|Brisbane|Perth|Adelaide|Hobart|Darwin",
    "JP": "Tokyo|Osaka|Kyoto|Yokohama|Nagoya|Kobe|Fukuoka|Sapporo",
    "SG": "Singapore",
    "AE": "Dubai|Abu Dhabi|Sharjah",
    "IL": "Tel Aviv|Jerusalem|Haifa",
    "CN": "Beijing|Shanghai|Shenzhen|Guangzhou",
    "HK": "Hong Kong",
    "BR": "São Paulo|Rio de Janeiro|Brasília|Curitiba|Porto Alegre",
    "MX": "Mexico City|Ciudad de México|Guadalajara|Monterrey|Puebla",
    "ZA": "Johannesburg|Cape Town|Durban|Pretoria",
    "TR": "Istanbul|İstanbul|Ankara|Izmir",
    "GR": "Athens|Thessaloniki",
    "HU": "Budapest",
    "RO": "Bucharest|Cluj-Napoca",
}

US_STATES = {
    "AL": "Alabama", "AK": "Alaska", "AZ": "Arizona", "AR": "Arkansas", "CA": "California", "CO": "Colorado", "CT": "Connecticut", "DE": "Delaware",
    "FL": "Florida", "GA": "Georgia", "HI": "Hawaii", "ID": "Idaho", "IL": "Illinois", "IN": "Indiana", "IA": "Iowa", "KS": "Kansas",
    "KY": "Kentucky", "LA": "Louisiana", "ME": "Maine", "MD": "Maryland", "MA": "Massachusetts", "MI": "Michigan", "MN": "Minnesota",
    "MS": "Mississippi", "MO": "Missouri", "MT": "Montana", "NE": "Nebraska", "NV": "Nevada", "NH": "New Hampshire", "NJ": "New Jersey",
    "NM": "New Mexico", "NY": "New York", "NC": "North Carolina", "ND": "North Dakota", "OH": "Ohio", "OK": "Oklahoma", "OR": "Oregon",
    "PA": "Pennsylvania", "RI": "Rhode Island", "SC": "South Carolina", "SD": "South Dakota", "TN": "Tennessee", "TX": "Texas", "UT": "Utah",
    "VT": "Vermont", "VA": "Virginia", "WA": "Washington", "WV": "West Virginia", "WI": "Wisconsin", "WY": "Wyoming", "DC": "District of Columbia",
}  # fmt: skip
STATES: dict[str, tuple[str, ...]] = {
    "US": tuple(US_STATES.values()),
    "DE": (
        "Baden-Württemberg",
        "Bayern",
        "Bavaria",
        "Berlin",
        "Brandenburg",
        "Bremen",
        "Hamburg",
        "Hessen",
        "Hesse",
        "Niedersachsen",
        "Lower Saxony",
        "Mecklenburg-Vorpommern",
        "Nordrhein-Westfalen",
        "North Rhine-Westphalia",
        "Rheinland-Pfalz",
        "Rhineland-Palatinate",
        "Saarland",
        "Sachsen",
        "Saxony",
        "Sachsen-Anhalt",
        "Schleswig-Holstein",
        "Thüringen",
        "Thuringia",
    ),
    "CA": (
        "Ontario",
        "Quebec",
        "Québec",
        "British Columbia",
        "Alberta",
        "Manitoba",
        "Saskatchewan",
        "Nova Scotia",
        "New Brunswick",
        "Newfoundland and Labrador",
    ),
    "AU": ("New South Wales", "Victoria", "Queensland", "Western Australia", "South Australia", "Tasmania"),
    "GB": (
        "England",
        "Scotland",
        "Wales",
        "Northern Ireland",
        "Greater London",
        "Greater Manchester",
        "West Midlands",
        "Yorkshire",
    ),
    "FR": ("Île-de-France", "Bretagne", "Normandie", "Occitanie", "Nouvelle-Aquitaine", "Grand Est", "Hauts-de-France"),
}

POSTAL: dict[str, str] = {
    "DE": r"\d{5}", "US": r"\d{5}(-\d{4})?", "FR": r"\d{5}", "IT": r"\d{5}", "ES": r"\d{5}", "FI": r"\d{5}", "MX": r"\d{5}", "TR": r"\d{5}",
    "GB": r"[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}", "NL": r"\d{4}( ?[A-Z]{2})?", "AT": r"\d{4}", "CH": r"\d{4}", "BE": r"\d{4}", "DK": r"\d{4}",
    "NO": r"\d{4}", "AU": r"\d{4}", "HU": r"\d{4}", "NZ": r"\d{4}", "ZA": r"\d{4}", "CA": r"[A-Z]\d[A-Z] ?\d[A-Z]\d", "PL": r"\d{2}-\d{3}",
    "PT": r"\d{4}-\d{3}", "SE": r"(SE-)?\d{3} ?\d{2}", "CZ": r"\d{3} ?\d{2}", "SK": r"\d{3} ?\d{2}", "GR": r"\d{3} ?\d{2}", "IN": r"\d{3} ?\d{3}",
    "CN": r"\d{6}", "SG": r"\d{6}", "RO": r"\d{6}", "JP": r"\d{3}-?\d{4}", "BR": r"\d{5}-?\d{3}", "IE": r"[A-Z]\d[\dW] ?[A-Z\d]{4}",
    "KR": r"\d{5}", "IL": r"\d{5}(\d{2})?",
}  # fmt: skip

PLACEHOLDER = re.compile(
    r"(?:test(?:ing|er|user|company|lead|contact|deal)?\s*\d*|n\.?\s*/?\s*a\.?|none|null|nil|nan|undefined|unknown|unbekannt|keine?(?: angabe)?|k\.?\s*a\.?|x{2,}|z{3,}|a{3,}|"
    r"asdf\w*|qwert[yz]?\w*|dummy|sample|example|foo(?:bar)?|bar|baz|tb[adc]|todo|to be (?:determined|defined|confirmed)|lorem(?: ipsum.*)?|"
    r"(?:do not|don'?t) (?:use|call|contact)|no[ -]?(?:name|email|mail|phone|last ?name|first ?name|title|company)|not (?:provided|given|available|known|set|specified|applicable)|"
    r"delete ?me|placeholder|fake|blank|empty|temp|abc(?:def)?|123\d*|0+|[\W_]+|first ?name|last ?name|your (?:name|company)|company(?: name)?|mr test|max mustermann|mustermann|anonymous)",
    re.IGNORECASE,
)

_TITLE_WORDS_TEXT = """
    account accountant accounting accounts acquisition administration administrative administrator advisor
    adviser affairs agency analyst analytics applications architect architecture area art assistant associate
    assurance audit auditor automation banking billing board brand broker business buyer buying category
    chairman chairwoman chair channel chemical chief client clinical commercial communications community company
    compliance computer construction consultant consulting content control controller controlling coordinator
    corporate counsel creative customer customers data database demand department deputy design designer
    developer development digital director distribution division ecommerce editor education electrical
    enablement energy engagement engineer engineering enterprise environmental estate events executive
    experience facilities facility field finance financial founder freelance general global governance graphic
    group growth hardware head health hospital human implementation industrial information infrastructure
    innovation inside insights instructor insurance integration interim internal international inventory
    investment investor junior laboratory leader learning legal liaison logistics machine maintenance management
    manager managing manufacturing market marketing mechanical media medical merchandise merchandiser mobile
    national network nurse office officer online operating operation operations operator organization owner
    partner partnership partnerships payroll people performance pharmacist physician planner planning plant
    platform policy portfolio president principal procurement producer product production professor program
    programme programmer project projects property public publisher purchasing quality receptionist recruiter
    recruiting recruitment regional registrar regulatory relations relationship research researcher resources
    retail revenue risk safety sales scientist secretary security senior service services shareholder software
    solution solutions sourcing specialist staff strategic strategist strategy studio success superintendent
    supervisor supplier supply support surgeon sustainability system systems talent teacher team technical
    technician technologist technology testing trader trading trainer training transformation transport
    transportation treasurer treasury university validation vendor venture vice warehouse website wholesale
    workplace writer academic accessibility actuarial actuary adoption advanced aerospace after agile
    agricultural agriculture aircraft allocation alliance alliances ambassador anaesthetist animation apprentice
    approval archivist assembly asset assets attorney audio aviation awareness bakery bank bid biomedical
    biotech bookkeeper branch budget bureau campaign campus capacity capital cardiologist care career cargo
    carpenter case cash catering cell certified champion change charter chartered chef chemist chemistry city
    civil claims classroom cleaning clerk climate clinic cloud coach coaching coffee collection collections
    college command commerce commission commissioning committee compensation competence competitive component
    comptroller conference configuration consumer contact continuous contract contractor contracts conversion
    cooperation core correspondent cost costing council counsellor country courier court craft credit crew
    crisis critical culture curator curriculum cyber cybersecurity dealer debt decision defence defense delegate
    delivery dental dentist deployment derivatives destination detective device devices diagnostics diagnostic
    dietitian dispatch dispatcher display district diversity doctor document documentation domain domestic donor
    dynamic early economic economics economist ecosystem editorial efficiency electric electrician electronic
    electronics embedded emerging employee employer employment equity equipment ethics evaluation event examiner
    exchange excellence expert export external extension fabrication faculty family farm fashion federal fellow
    fiber film fire firmware fiscal fleet flight food foreign forensic foreman forestry foundation franchise
    fraud freight front fuel fulfilment fulfillment full fund fundraising furniture future gaming garden gas
    geologist geographic gift goods governor grant grants grocery grounds guest guide harvest healthcare heavy
    help heritage home hospitality hotel housekeeping housing hydraulic identity illustrator image imaging
    impact import inbound incident incentive inclusion independent industry injection insight inspection
    inspector installation institute institutional instrument instrumentation integrated integrity intelligence
    interaction interface interior intern interpreter interview invoice invoicing journalist judge kitchen
    knowledge language laser launch laundry law lawyer lead leadership lean lease leasing legislative lender
    lending liability library librarian license licensing life lifecycle light linguist listing literacy
    litigation live loan local location loss loyalty luxury machinery mailroom major makeup mapping marine
    master material materials mathematics measurement mechanic mechanics mechatronics membership memory mental
    mentor merchant metal metrology microbiologist migration military mining minister mission mobility model
    modeling monitoring mortgage motion motor multimedia municipal museum music natural naval negotiation
    negotiator neurologist news northern nuclear nutrition nutritionist observability occupational oncology
    optical optician optimization orchestra order orders organisation organisational organizational orientation
    original outbound outdoor outreach outside packaging paralegal parent parking participation parts passenger
    patent patient patients pediatric pension personal personnel pharmaceutical pharmacy photo photographer
    physical physics pilot pipeline placement plan plastic plumber police polymer port post power practice
    practitioner preconstruction premium presales press prevention price pricing primary print printing prison
    private privacy process processes processing processor procedure productions productivity professional
    profitability promotion promotions proposal proposals protection protocol provider psychiatrist psychologist
    publication publications publishing purchase purchaser qualification radio radiographer radiology rail
    railway range rates reactor reader reception reconciliation records recovery recreation recycling redaction
    refinery reform region registered registry rehabilitation reliability religious remote renewable renewables
    renewal renewals rental repair replenishment reporter reporting representative reputation requirements
    rescue reservations reservoir residence resident residential response restaurant restructuring return
    returns review rights robotics route routing rural salary sample satellite savings scheduler scheduling
    school science scientific screening script scrum seafood search secondary secretariat section sector
    securities self seminar server shift shipping shop showroom site skills small social society soil solar
    sound space special species speech sponsorship sport sports stability staffing stakeholder standards startup
    state statistical statistician statistics steel stewardship steward stock storage store stores stream street
    structural structure student studies stylist subject submissions subscription subscriptions subsidiary
    surface survey surveyor surveys sustainable switch synthesis tactical tax taxation telecom
    telecommunications television territory test tester textile theatre therapist thermal ticketing title tool
    tooling touring tourism town trade trademark traffic trainee transaction transactions transfer transit
    transition translation translator travel treatment trial trials trust trustee tutor underwriter underwriting
    union unit urban usability user users utilities utility vaccine valuation value vehicle vehicles vessel
    veterinarian veterinary video virtual vision visual visualization vocational volunteer wage waste water
    wealth web welder welding welfare wellbeing wellness western wind wireless women wood workflow workforce
    workshop world writing yard young youth zone achat achats adjoint administratif affaires agent assistante
    atelier cabinet chargé chargée cheffe clientèle commerciale compte comptable conseil conseiller conseillère
    création directeur directrice développement développeur entreprise finances formateur gestionnaire gérant
    gérante informatique ingénieur juridique marché patron projet projets présidente qualité réseau responsable
    ressources humaines secrétaire stratégie technicien technique vendeur ventes administrador comercial compras
    consultor contable coordinador desarrollo directora empresa finanzas gerente gestor ingeniero jefe
    presidente proyecto proyectos recursos responsabile acquisti amministratore direttore direttrice ingegnere
    progetto risorse vendite inkoop inkoper verkoop beheerder medewerker hoofd bedrijf ontwikkelaar
    projectleider abteilung angestellte angestellter arbeit außendienst innendienst betrieb betriebsleiter
    bauleiter beauftragte beauftragter datenschutz disponent direktor direktorin einrichtung fachkraft fertigung
    filialleiter finanzen forschung führung gebietsleiter geschäftsleitung gesellschafter gesellschafterin
    gruppenleiter handel informatik informatiker instandhaltung kaufmann kauffrau kommunikation konstrukteur
    kundenbetreuer kundenbetreuung kundenberater lager logistik logistikleiter marktleiter meister mitarbeiter
    mitarbeiterin niederlassungsleiter öffentlichkeitsarbeit personalleiter personalreferent planung produkt
    produktmanager produktionsleiter prokurist prokuristin qualität qualitätsmanagement recht referent
    referentin sachbearbeiter sachbearbeiterin schichtleiter steuerberater technik techniker technische
    unternehmen vertriebsmitarbeiter vertriebsleitung verkäufer verkäuferin verkauf vermarktung versand
    werkleiter werksleiter wirtschaft leiter leiterin leitung geschäftsführer geschäftsführerin vertrieb
    vertriebsleiter einkauf einkäufer einkaufsleiter entwickler entwicklung projektleiter bereichsleiter
    abteilungsleiter produktion vorstand inhaber inhaberin assistentin buchhaltung verwaltung technischer
    kaufmännischer ingenieur teamleiter berater
"""
TITLE_WORDS = frozenset(_TITLE_WORDS_TEXT.split())


@lru_cache(maxsize=8192)
def plain(text: str) -> str:
    """Case, accents and punctuation taken away: for comparing names of places."""
    decomposed = unicodedata.normalize(
        "NFKD", text.casefold().replace("ß", "ss").replace("ł", "l").replace("ø", "o").replace("đ", "d")
    )
    return re.sub(r"[^a-z0-9]+", " ", "".join(c for c in decomposed if not unicodedata.combining(c))).strip()


@cache
def homes_of_states() -> dict[str, frozenset[str]]:
    """Plain name of a state → the countries that have one of this name."""
    found: dict[str, set[str]] = defaultdict(set)
    for home, names in STATES.items():
        for name in names:
            found[plain(name)].add(home)
    return {name: frozenset(homes) for name, homes in found.items()}


def _lines(name: str) -> list[tuple[str, list[str]]]:
    text = files(__package__).joinpath("places", name).read_text(encoding="utf-8")
    return [
        (line.split("\t")[0], line.split("\t")[1].split("|"))
        for line in text.splitlines()
        if line and not line.startswith("#")
    ]


@cache
def countries() -> dict[str, tuple[str, str]]:
    """Plain name or code → (region, name as written)."""
    found: dict[str, tuple[str, str]] = {}
    entries = [(region, names) for region, names in _lines("countries.txt")] + [
        (r, names.split("|")) for r, names in _ALIASES.items()
    ]
    for region, names in entries:
        for name in names:
            found.setdefault(plain(name), (region, name))
        found.setdefault(region.casefold(), (region, names[0]))
    return found


@cache
def cities() -> dict[str, dict[str, str]]:
    """Region → plain name → name as written."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for region, names in [*_lines("cities.txt"), *((r, names.split("|")) for r, names in _MORE_CITIES.items())]:
        for name in names:
            found[region].setdefault(plain(name), name)
    # Canada shares its calling code, and so its places in the source, with the United States.
    found["CA"].update({key: name for key, name in found["US"].items() if key not in found["CA"]})
    return dict(found)


@cache
def well_known_cities() -> dict[str, tuple[str, str]]:
    """Plain name → (region, name): what a name is compared with where no country is given."""
    return {plain(name): (region, name) for region, names in _MORE_CITIES.items() for name in names.split("|")}


def region_of(country: str | None) -> str | None:
    """ISO 3166 code of a country as people write it; None when it is none."""
    if not country:
        return None
    found = countries().get(plain(country))
    return found[0] if found else None
