"""The model and the CRM: refusing, failing, silent, talking nonsense, away."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.stand import Stand

MANY = 1_000_000


class ModelTemper(Fault):
    """The model does one thing to every request, or to some."""

    temper: ClassVar[dict[str, Any]]
    share: ClassVar[float] = 1.0

    def __init__(self) -> None:
        self._met = 0

    async def inject(self, stand: Stand) -> None:
        await asyncio.to_thread(stand.model.tell, temper=self.temper, share=self.share)

    async def recover(self, stand: Stand) -> None:
        answer = await asyncio.to_thread(stand.model.tell, temper=None)
        self._met += answer["met"]

    async def evidence(self, stand: Stand) -> str:
        if not self._met:
            raise NoEvidenceError("no question met it")
        return f"{self._met} questions met it"


class ModelAway(Fault):
    name = "model-away"
    said = "the model's server is away for 60 s"
    short, long = 4.0, 60.0

    def __init__(self) -> None:
        self._code: int | None = None
        self._pid = 0

    async def inject(self, stand: Stand) -> None:
        self._pid = stand.model.pid
        self._code = await asyncio.to_thread(stand.model.kill)

    async def recover(self, stand: Stand) -> None:
        await asyncio.to_thread(stand.model.start)

    async def evidence(self, stand: Stand) -> str:
        if self._code != -9:
            raise NoEvidenceError(f"exit code {self._code}")
        return f"its server died (pid {self._pid}, signal 9)"


_TEMPERS: dict[str, tuple[str, dict[str, Any], float]] = {
    "model-429-retry-after": ("the model answers 429 with Retry-After: 2", {"status": 429, "retry_after": 2}, 1.0),
    "model-429": ("the model answers 429 without Retry-After", {"status": 429}, 1.0),
    "model-500": ("the model answers 500", {"status": 500}, 1.0),
    "model-timeout": ("the model does not answer", {"hang": 20.0}, 1.0),
    "model-garbage": ("two of three answers of the model's server are no JSON", {"raw": "<html>bad gateway"}, 0.67),
}


class CrmMeets(Fault):
    """Calls to both CRMs meet one thing."""

    plants: ClassVar[tuple[tuple[str, str, dict[str, Any]], ...]]
    """(operation, kind, more)."""

    def __init__(self) -> None:
        self._met: dict[str, int] = {}

    async def inject(self, stand: Stand) -> None:
        await stand.crm.acall("faults_met")
        for operation, kind, more in self.plants:
            await stand.crm.acall("plant_fault", account="*", operation=operation, kind=kind, count=MANY, **more)

    async def recover(self, stand: Stand) -> None:
        await stand.crm.acall("clear_faults")
        self._met = await stand.crm.acall("faults_met")

    async def evidence(self, stand: Stand) -> str:
        if not self._met:
            raise NoEvidenceError("no call met it")
        kinds = sorted({name.partition(" at ")[0] for name in self._met})
        return f"{sum(self._met.values())} calls met {', '.join(kinds)}"


class CrmAnswers(Fault):
    """Both CRMs answer everything with one thing that no fault of the sandbox makes."""

    answer: ClassVar[dict[str, Any]]

    def __init__(self) -> None:
        self._met = 0

    async def inject(self, stand: Stand) -> None:
        await stand.crm.acall("answer_with", **self.answer)

    async def recover(self, stand: Stand) -> None:
        self._met = (await stand.crm.acall("answer_with"))["met"]

    async def evidence(self, stand: Stand) -> str:
        if not self._met:
            raise NoEvidenceError("no call met it")
        return f"{self._met} calls met it"


class CrmAway(Fault):
    name = "crm-away"
    said = "no connection to either CRM for 60 s"
    short, long = 4.0, 60.0

    async def inject(self, stand: Stand) -> None:
        stand.wires.struck("crm")
        stand.wires.refuse("crm", refused=True)

    async def recover(self, stand: Stand) -> None:
        stand.wires.refuse("crm", refused=False)

    async def evidence(self, stand: Stand) -> str:
        struck = stand.wires.struck("crm")
        if not struck["connections refused"]:
            raise NoEvidenceError("nobody tried")
        return f"{struck['connections reset']} connections reset, {struck['connections refused']} refused"


_PLANTS: dict[str, tuple[str, tuple[tuple[str, str, dict[str, Any]], ...]]] = {
    "crm-429": ("both CRMs answer 429 or their like, without Retry-After", (("*", "429", {}),)),
    "crm-500": ("both CRMs answer 500", (("*", "500", {}),)),
    "crm-timeout": ("both CRMs do not answer", (("*", "timeout", {"ms": 20_000}),)),
    "crm-207": (
        "in every batch of a CRM a part of the rows fails (207, row errors)",
        (("objects.batch_*", "207", {"rows": 2}), ("collections.*", "207", {"rows": 2})),
    ),
}
_ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "crm-429-retry-after": (
        "both CRMs answer 429 with Retry-After: 2",
        {
            "status": 429,
            "body": '{"status":"error","category":"RATE_LIMITS","message":"slow down"}',
            "headers": {"retry-after": "2"},
        },
    ),
    "crm-garbage": (
        "two of three answers of the CRMs are no JSON",
        {"status": 200, "body": "<html>under maintenance", "headers": {"content-type": "text/html"}, "share": 0.67},
    ),
}

FAULTS: dict[str, type[Fault]] = {
    **{
        name: type(name, (ModelTemper,), {"name": name, "said": said, "temper": temper, "share": share})
        for name, (said, temper, share) in _TEMPERS.items()
    },
    ModelAway.name: ModelAway,
    **{
        name: type(name, (CrmMeets,), {"name": name, "said": said, "plants": plants})
        for name, (said, plants) in _PLANTS.items()
    },
    **{
        name: type(name, (CrmAnswers,), {"name": name, "said": said, "answer": answer})
        for name, (said, answer) in _ANSWERS.items()
    },
    CrmAway.name: CrmAway,
}
