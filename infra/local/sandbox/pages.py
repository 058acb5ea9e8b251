"""What a person sees: the accounts with their records, and one record as a CRM would show it.

Law: reads only; every value is escaped; a page refreshes itself by fetching what the server rendered. A banner says that
this is a stand-in.
"""

from __future__ import annotations

import secrets
from html import escape
from urllib.parse import quote

from infra.local.sandbox.identifiers import iso, millis
from infra.local.sandbox.kinds import kind_name
from infra.local.sandbox.objects import HUBSPOT_ACTIVITIES
from infra.local.sandbox.page_assets import SCRIPT, STYLE
from infra.local.sandbox.reconciliation import SETTLED_OBJECTS, is_ours
from infra.local.sandbox.state import Account, Record, World
from infra.local.sandbox.web import Request, Response

BANNER = "This is Hookline's sandbox, a stand-in for HubSpot and Salesforce on this machine. No CRM, and nobody in it is real."
_HTML = b"text/html; charset=utf-8"
_TITLES = {
    "contacts": ("firstname", "lastname"), "companies": ("name",), "deals": ("dealname",), "tickets": ("subject",), "leads": ("hs_lead_name",),
    "Lead": ("Name",), "Contact": ("Name",), "Account": ("Name",), "Opportunity": ("Name",), "Task": ("Subject",), "EmailMessage": ("Subject",),
}  # fmt: skip
_DETAILS = {
    "contacts": ("jobtitle", "company"), "companies": ("industry", "city"), "deals": ("dealstage", "amount"), "Lead": ("Title", "Company"),
    "Contact": ("Title", "Email"), "Account": ("Industry", "BillingCity"), "Opportunity": ("StageName", "Amount"),
}  # fmt: skip
_TEXTS = {
    "notes": ("", "hs_note_body", "hs_timestamp"), "emails": ("hs_email_subject", "hs_email_text", "hs_timestamp"),
    "tasks": ("hs_task_subject", "hs_task_body", "hs_timestamp"), "Task": ("Subject", "Description", "CreatedDate"),
    "EmailMessage": ("Subject", "TextBody", "MessageDate"), "Note": ("Title", "Body", "CreatedDate"),
}  # fmt: skip
_PARENTS = {"Task": "WhatId", "EmailMessage": "RelatedToId", "Note": "ParentId"}
_RECENT = 25


class Pages:
    """`/`, `/records/{account}/{object}/{id}`, and the same below `/live` as fragments."""

    def __init__(self, world: World) -> None:
        self.world = world

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        parts = [part for part in request.path.strip("/").split("/") if part]
        if request.method not in {"GET", "HEAD"}:
            return _text(405, "This page is only read.")
        live = parts[:1] == ["live"]
        if live:
            parts = parts[1:]
        if not parts:
            inner, title = self._overview(), "Sandbox CRM"
        elif len(parts) == 4 and parts[0] == "records":
            found = self._find(*parts[1:])
            if found is None:
                return _text(404, "No such record. The list of all records is at /")
            inner, title = self._record(*found), _title(*found)
        else:
            return _text(404, "Nothing here. The list of all records is at /")
        if live:
            return _html(inner)
        return _page(title, inner, "/live/" + "/".join(quote(part, safe=":") for part in parts))

    def _find(self, key: str, name: str, record_id: str) -> tuple[Account, Record] | None:
        account = self.world.accounts.get(key)
        if account is None:
            return None
        try:
            record = account.records[kind_name(account, name)].get(record_id)
        except ValueError:
            return None
        return (account, record) if record is not None else None

    # ---------------------------------------------------------------- the list

    def _overview(self) -> str:
        parts = [
            '<header><h1>Sandbox CRM</h1><p class="crumb">Records, newest change first. Scores appear as they are written.</p></header>'
        ]
        parts.append('<main class="grid">')
        if not self.world.accounts:
            parts.append(
                '<section class="card"><h2>No account yet</h2><p>Create one with POST /sandbox/create_portal or create_org.</p></section>'
            )
        for account in self.world.accounts.values():
            rows = [
                record
                for kind in account.records
                for record in account.live(kind)
                if account.canonical(kind) in SETTLED_OBJECTS
            ]
            rows.sort(key=lambda record: record.modified, reverse=True)
            scored = sum(1 for record in rows if _ours(account, record))
            parts.append(
                f'<section class="card"><h2>{escape(account.name)} <span class="pill">{escape(account.key)}</span></h2>'
                f'<p class="hint">{len(rows)} records, {scored} with an insight</p>{self._table(account, rows[:_RECENT])}'
            )
            if len(rows) > _RECENT:
                rest = self._table(account, rows[_RECENT:])
                parts.append(f"<details><summary>All others ({len(rows) - _RECENT})</summary>{rest}</details>")
            parts.append("</section>")
        parts.append("</main>")
        return "".join(parts)

    @staticmethod
    def _table(account: Account, rows: list[Record]) -> str:
        cells = ["<table><tr><th>Name</th><th>Kind</th><th>Details</th><th>Changed</th><th>Insight</th></tr>"]
        for record in rows:
            details = " · ".join(
                str(record.values[name]) for name in _DETAILS.get(record.type, ()) if record.values.get(name)
            )
            score, grade = _score(account, record)
            mark = f"{score} {grade}".strip() or ("yes" if _ours(account, record) else "")
            cells.append(
                f'<tr><td><a href="{_href(account, record)}">{escape(_title(account, record))}</a></td>'
                f"<td>{escape(account.canonical(record.type))}</td><td>{escape(details)}</td>"
                f'<td class="when">{iso(record.modified)[:19].replace("T", " ")}</td>'
                f'<td class="n" data-k="{escape(record.id)}">{escape(mark)}</td></tr>'
            )
        return "".join(cells) + "</table>"

    # ---------------------------------------------------------------- one record

    def _record(self, account: Account, record: Record) -> str:
        gone = f' <span class="gone">{escape(record.gone)}</span>' if record.gone else ""
        vendor = "HubSpot" if account.vendor == "hubspot" else "Salesforce"
        head = (
            f'<header><p class="crumb"><a href="/">All records</a> · {vendor} · {escape(account.name)} · '
            f"{escape(account.canonical(record.type))} {escape(record.id)}</p><h1>{escape(_title(account, record))}{gone}</h1>"
            f'<p class="when">Last modified {iso(record.modified)[:19].replace("T", " ")} UTC</p></header>'
        )
        return (
            f'{head}<main class="cols"><section class="card"><h2>Properties</h2>{_properties(account, record)}</section>'
            f'<section class="card"><h2>Activity</h2>{self._timeline(account, record)}</section>'
            f'<section class="card insight"><h2>Insight</h2>{_insight(account, record)}</section></main>'
        )

    def _timeline(self, account: Account, record: Record) -> str:
        items = sorted(self._activities(account, record), key=lambda item: item[0], reverse=True)
        if not items:
            return '<p class="hint">No note or e-mail yet.</p>'
        return "".join(
            f'<div class="item" data-k="activity-{escape(key)}"><span class="when">{escape(kind)} · {iso(at)[:16].replace("T", " ")}</span>'
            f"{f'<br><b>{escape(subject)}</b>' if subject else ''}<p>{escape(text)}</p></div>"
            for at, kind, key, subject, text in items[:40]
        )

    @staticmethod
    def _activities(account: Account, record: Record) -> list[tuple[int, str, str, str, str]]:
        if account.vendor == "hubspot":
            found = [
                item
                for kind in HUBSPOT_ACTIVITIES
                for key in record.links.get(kind, {})
                if (item := account.find(kind, key))
            ]
        else:
            found = [
                item
                for kind, field in _PARENTS.items()
                for item in account.live(kind)
                if item.values.get(field) == record.id
            ]
        rows = []
        for item in found:
            subject, text, at = _TEXTS[item.type]
            when = millis(str(item.values.get(at) or "")) or item.created
            kind = account.canonical(item.type)
            rows.append((when, kind, item.id, str(item.values.get(subject) or ""), str(item.values.get(text) or "")))
        return rows


def _properties(account: Account, record: Record) -> str:
    rows = []
    for name, definition in account.catalogue[record.type].items():
        value = record.values.get(name)
        if not is_ours(name) and value is not None:
            shown = dict(definition.options).get(str(value), str(value))
            rows.append(
                f'<dt title="{escape(name)}">{escape(definition.label)}</dt><dd data-k="{escape(name)}">{escape(shown)}</dd>'
            )
    return f"<dl>{''.join(rows)}</dl>"


def _ours(account: Account, record: Record) -> dict[str, str]:
    """This product's properties that hold a value, in the order in which they were defined."""
    return {
        name: str(record.values[name])
        for name in account.catalogue[record.type]
        if is_ours(name) and record.values.get(name) is not None
    }


def _score(account: Account, record: Record) -> tuple[str, str]:
    ours = {name.lower().removesuffix("__c"): value for name, value in _ours(account, record).items()}
    return ours.get("hookline_score", "").removesuffix(".0"), ours.get("hookline_grade", "")


def _insight(account: Account, record: Record) -> str:
    ours = _ours(account, record)
    if not ours:
        return '<p class="hint">Nothing here yet. It fills in while you look.</p>'
    score, grade = _score(account, record)
    parts = []
    if score or grade:
        width = min(100, max(0, int(float(score)))) if score.replace(".", "", 1).isdigit() else 0
        bar = f'<span class="bar"><i style="width:{width}%"></i></span>' if score else ""
        mark = f'<span class="grade" data-k="grade">{escape(grade)}</span>' if grade else ""
        parts.append(f'<div class="score"><b data-k="score">{escape(score)}</b>{mark}{bar}</div>')
    parts.append("<dl>")
    for name, value in ours.items():
        if name.lower().removesuffix("__c") not in {"hookline_score", "hookline_grade"}:
            label = account.catalogue[record.type][name].label
            parts.append(
                f'<dt title="{escape(name)}">{escape(label)}</dt><dd data-k="{escape(name)}">{escape(value)}</dd>'
            )
    return "".join(parts) + "</dl>"


def _title(account: Account, record: Record) -> str:
    text = " ".join(str(record.values[name]) for name in _TITLES.get(record.type, ()) if record.values.get(name))
    return text or f"{account.canonical(record.type)} {record.id}"


def _href(account: Account, record: Record) -> str:
    return f"/records/{quote(account.key, safe=':')}/{quote(account.canonical(record.type))}/{quote(record.id)}"


def _page(title: str, inner: str, live: str) -> Response:
    nonce = secrets.token_urlsafe(12)
    style = STYLE.strip()
    response = _html(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)} · Sandbox CRM</title><style nonce="{nonce}">{style}</style></head><body>'
        f'<div class="banner" role="note">{escape(BANNER)}</div><div data-live="{escape(live)}">{inner}</div>'
        f'<script nonce="{nonce}">{SCRIPT.strip()}</script></body></html>'
    )
    # The score's bar has its width in a style attribute, hence style-src-attr.
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; style-src-attr 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'"
    response.headers.append((b"content-security-policy", policy.encode()))
    return response


def _html(text: str) -> Response:
    response = Response(200, text.encode(), _HTML)
    response.headers += [
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    return response


def _text(status: int, text: str) -> Response:
    return Response(status, text.encode(), b"text/plain; charset=utf-8")
