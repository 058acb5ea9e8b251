"""Salesforce's query calls: SOQL in, pages of records out.

Law: reads only; a page's locator names the query that it goes on with, and nothing else is kept.
"""

from __future__ import annotations

import base64
from typing import Any

from infra.local.sandbox import soql
from infra.local.sandbox.objects import SALESFORCE, salesforce_type
from infra.local.sandbox.salesforce_call import Call
from infra.local.sandbox.salesforce_values import SalesforceError, attributes
from infra.local.sandbox.web import Response, Router, answer

PAGE = 2_000
MIN_PAGE = 200


class Queries:
    """`/query`, `/queryAll` and `/tooling/query`."""

    def register(self, router: Router) -> None:
        """Add the routes."""
        base = "/services/data/{version}"
        router.add("GET", base + "/query", "query", self._query)
        router.add("GET", base + "/queryAll", "query", self._query_all)
        router.add("GET", base + "/query/{locator}", "query_more", self._more)
        router.add("GET", base + "/queryAll/{locator}", "query_more", self._more)
        router.add("GET", base + "/tooling/query", "tooling.query", self._tooling)

    def _query(self, call: Call) -> Response:
        return self._page(call, call.request.param("q"), 0, deleted=False)

    def _query_all(self, call: Call) -> Response:
        return self._page(call, call.request.param("q"), 0, deleted=True)

    def _more(self, call: Call, locator: str) -> Response:
        try:
            text, start, deleted = base64.urlsafe_b64decode(locator.removeprefix("01g")).decode().rsplit("|", 2)
            return self._page(call, text, int(start), deleted=deleted == "1")
        except (ValueError, UnicodeDecodeError):
            raise SalesforceError(400, "INVALID_QUERY_LOCATOR", "invalid query locator") from None

    def _page(self, call: Call, text: str, start: int, *, deleted: bool) -> Response:
        query = _parsed(text)
        kind = salesforce_type(query.source)
        if kind is None:
            raise SalesforceError(400, "INVALID_TYPE", f"sObject type '{query.source}' is not supported.")
        columns = _columns(call, kind.name, query)
        source = call.account.records[kind.name].values()
        rows: list[dict[str, Any]] = [record.values for record in source if deleted or not record.archived]
        found = soql.run(query, rows)
        if query.count:
            return answer({"totalSize": len(found), "done": True, "records": []})
        size = _page_size(call)
        page = found[start : start + size]
        done = start + size >= len(found)
        records = [
            {"attributes": attributes(kind.name, str(row["Id"]), call.version), **{c: row.get(c) for c in columns}}
            for row in page
        ]
        body: dict[str, Any] = {"totalSize": len(found), "done": done, "records": records}
        if not done:
            locator = base64.urlsafe_b64encode(f"{text}|{start + size}|{int(deleted)}".encode()).decode()
            body["nextRecordsUrl"] = f"/services/data/{call.version}/query/01g{locator}"
        return answer(body)

    @staticmethod
    def _tooling(call: Call) -> Response:
        query = _parsed(call.request.param("q"))
        if query.source.lower() not in {"customfield", "fielddefinition"}:
            raise SalesforceError(400, "INVALID_TYPE", f"sObject type '{query.source}' is not supported.")
        custom = query.source.lower() == "customfield"
        rows: list[dict[str, Any]] = [
            {
                "Id": definition.extra.get("id") or f"{kind}.{name}",
                "DurableId": f"{kind}.{name}",
                "DeveloperName": name.removesuffix("__c"),
                "QualifiedApiName": name,
                "TableEnumOrId": kind,
                "EntityDefinitionId": kind,
                "Label": definition.label,
                "DataType": definition.type,
            }
            for kind in SALESFORCE
            for name, definition in call.account.catalogue[kind].items()
            if definition.custom or not custom
        ]
        renamed = {
            name: name.replace("EntityDefinition.QualifiedApiName", "EntityDefinitionId")
            for name in (*query.fields, *query.used)
        }
        for name, known in renamed.items():
            if known not in rows[0]:
                raise SalesforceError(400, "INVALID_FIELD", f"No such column '{name}' on entity '{query.source}'.")
        for row in rows:
            row["EntityDefinition.QualifiedApiName"] = row["TableEnumOrId"]
        found = soql.run(query, rows)
        records = [
            {"attributes": {"type": query.source}, **{name: row[name] for name in query.fields}} for row in found
        ]
        return answer(
            {
                "size": len(found),
                "totalSize": len(found),
                "done": True,
                "entityTypeName": query.source,
                "records": records,
            }
        )


def _parsed(text: str) -> soql.Query:
    try:
        return soql.parse(text)
    except soql.SoqlError as error:
        raise SalesforceError(400, "MALFORMED_QUERY", str(error)) from None


def _columns(call: Call, kind: str, query: soql.Query) -> list[str]:
    """The names as the catalogue spells them; unknown ones are refused, as are those in conditions."""
    catalogue = call.account.catalogue[kind]
    columns: list[str] = []
    for name in query.fields:
        if name.startswith("FIELDS("):
            if name != "FIELDS(STANDARD)" and (query.limit is None or query.limit > 200):
                raise SalesforceError(
                    400, "MALFORMED_QUERY", "The SOQL FIELDS function must have a LIMIT of at most 200"
                )
            wanted = {"FIELDS(ALL)": (True, False), "FIELDS(STANDARD)": (False,), "FIELDS(CUSTOM)": (True,)}[name]
            columns += [column for column, definition in catalogue.items() if definition.custom in wanted]
        else:
            columns.append(name)
    for name in (*columns, *query.used):
        if name not in catalogue:
            message = f"\nSELECT {name} FROM {kind}\n       ^\nERROR at Row:1:Column:8\nNo such column '{name}' on entity '{kind}'."
            raise SalesforceError(400, "INVALID_FIELD", message)
    return columns


def _page_size(call: Call) -> int:
    for part in call.request.header(b"sforce-query-options").split(","):
        name, _, value = part.partition("=")
        if name.strip() == "batchSize" and value.strip().isdigit():
            return min(max(int(value), MIN_PAGE), PAGE)
    return PAGE
