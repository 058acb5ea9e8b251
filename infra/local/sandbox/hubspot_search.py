"""HubSpot's search: filter groups (OR) of filters (AND), sorts, paging.

Law: reads only. Values compare as numbers or times where both sides are such, else as text without case.
"""

from __future__ import annotations

from typing import Any

from infra.local.sandbox.hubspot_call import Call, kind_of
from infra.local.sandbox.hubspot_errors import bad_request
from infra.local.sandbox.hubspot_values import show
from infra.local.sandbox.identifiers import millis
from infra.local.sandbox.state import Record
from infra.local.sandbox.web import Response, Router, answer

MAX_LIMIT = 200
MAX_RESULTS = 10_000


class HubSpotSearch:
    """`POST /crm/v3/objects/{type}/search`."""

    def register(self, router: Router) -> None:
        """Add the route."""
        router.add("POST", "/crm/v3/objects/{type}/search", "objects.search", self._search)

    @staticmethod
    def _search(call: Call, name: str) -> Response:
        kind = kind_of(name)
        body = call.body
        groups = body.get("filterGroups") or []
        if len(groups) > 5 or any(len(group.get("filters", ())) > 6 for group in groups):
            raise bad_request("A search takes at most 5 filter groups of at most 6 filters")
        if len(body.get("sorts") or []) > 1:
            raise bad_request("A search takes one sort rule")
        rows = [
            row for row in call.account.live(kind.plural) if not groups or any(_all(group, row) for group in groups)
        ]
        words = str(body.get("query") or "").lower()
        if words:
            rows = [row for row in rows if any(words in str(value).lower() for value in row.values.values())]
        for sort in reversed(body.get("sorts") or []):
            prop, down = _sort(sort)
            rows.sort(key=lambda row: _key(str(row.values.get(prop) or "")), reverse=down)
        limit = min(int(body.get("limit") or 10), MAX_LIMIT)
        start = int(body.get("after") or 0)
        if start + limit > MAX_RESULTS:
            raise bad_request("The requested range lies beyond the first 10,000 results")
        page = rows[start : start + limit]
        answered: dict[str, Any] = {
            "total": len(rows),
            "results": [show(row, call.account, body.get("properties") or []) for row in page],
        }
        if start + limit < len(rows):
            answered["paging"] = {"next": {"after": str(start + limit)}}
        return answer(answered)


def _sort(sort: Any) -> tuple[str, bool]:
    if isinstance(sort, dict):
        return str(sort.get("propertyName")), sort.get("direction") == "DESCENDING"
    text = str(sort)
    return text.lstrip("-"), text.startswith("-")


def _key(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        moment = millis(text)
        return (0, float(moment), "") if moment is not None else (1, 0.0, text.lower())


def _all(group: dict[str, Any], row: Record) -> bool:
    return all(_holds(condition, row) for condition in group.get("filters", ()))


def _holds(condition: dict[str, Any], row: Record) -> bool:
    operator = condition.get("operator")
    found = row.values.get(str(condition.get("propertyName")))
    if operator in {"HAS_PROPERTY", "NOT_HAS_PROPERTY"}:
        return bool((found not in {None, ""}) == (operator == "HAS_PROPERTY"))
    if found is None:
        return operator in {"NEQ", "NOT_IN", "NOT_CONTAINS_TOKEN"}
    have, want = _key(str(found)), _key(str(condition.get("value", "")))
    values = [_key(str(value)) for value in condition.get("values") or ()]
    tokens = str(condition.get("value", "")).lower().strip("*")
    outcomes: dict[Any, bool] = {
        "EQ": have == want,
        "NEQ": have != want,
        "LT": have < want,
        "LTE": have <= want,
        "GT": have > want,
        "GTE": have >= want,
        "BETWEEN": want <= have <= _key(str(condition.get("highValue", ""))),
        "IN": have in values,
        "NOT_IN": have not in values,
        "CONTAINS_TOKEN": tokens in str(found).lower(),
        "NOT_CONTAINS_TOKEN": tokens not in str(found).lower(),
    }
    if operator not in outcomes:
        raise bad_request(f"Unknown filter operator {operator!r}")
    return outcomes[operator]
