"""The Groq stand-in with answers that make sense: what an analysis's own rules say of the input that stands in the prompt.

Law: knows nothing but the request. One in seven answers of the small model is ungrounded (by a hash of the input), so that a
cascade has something to pass on; packs are answered item by item. `python -m bench.trace.model --port 8900 --latency 0.3`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import zlib
from typing import Any

from infra.local.groq_stand_in import GroqStandIn, smallest_answer
from processors.analyses.lead_intel import rules as lead_rules
from processors.analyses.requirements import rules as requirement_rules

SMALL = "openai/gpt-oss-20b"
BAD_ONE_IN = 7
_ANSWERS = {"lead_intel": "LeadIntelAnswer", "requirements": "RequirementsAnswer"}


def says(request: dict[str, Any]) -> str:
    """See `GroqStandIn.responder`."""
    schema = str(request.get("response_format", {}).get("json_schema", {}).get("name", ""))
    user = str(request["messages"][1]["content"])
    if schema == "MixedPack":
        lines = [json.loads(line) for line in user.splitlines()]
        mixed = [
            {"id": line["id"], "kind": line["kind"], "answer": _one(_ANSWERS[line["kind"]], line["input"], request)}
            for line in lines
        ]
        return json.dumps({"answers": mixed})
    if schema.endswith("Pack"):
        kind = schema.removesuffix("Pack")
        lines = [json.loads(line) for line in user.splitlines()]
        answers = [{"id": line["id"], "answer": _one(kind, line["input"], request)} for line in lines]
        return json.dumps({"answers": answers})
    return json.dumps(_one(schema, user, request))


def _one(kind: str, user: str, request: dict[str, Any]) -> Any:
    facts = json.loads(user[user.index("{") :])
    bad = request["model"] == SMALL and zlib.crc32(user.encode()) % BAD_ONE_IN == 0
    if kind == "LeadIntelAnswer":
        lead = lead_rules.answer(facts).model_dump(mode="json")
        if bad:
            for factor in lead["factors"]:
                factor["value"] = "something else"
        return lead
    if kind == "RequirementsAnswer":
        wanted = requirement_rules.answer(facts).model_dump(mode="json")
        if bad:
            wanted["items"] = []
        return wanted
    return json.loads(smallest_answer(request))


async def _serve(port: int, latency: float) -> None:
    async with GroqStandIn(says, latency=latency, remember=False).serve(port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.latency))
