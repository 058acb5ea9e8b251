"""Which destinations hurry."""

from __future__ import annotations

from types import SimpleNamespace

from infra.settings import Settings
from sinks.app import Sinks


class Pump:
    patient: bool | None = None

    def be_patient(self, patient: bool) -> None:
        self.patient = patient


def test_a_destination_hurries_while_its_crm_has_an_account():
    accounts: dict[str, SimpleNamespace] = {}
    parts = SimpleNamespace(directory=SimpleNamespace(accounts=lambda: accounts))
    sinks = Sinks(Settings(_env_file=None), parts)
    sinks._of_crm = [("hubspot", Pump()), ("salesforce", Pump())]

    def patient() -> list[bool | None]:
        sinks.look_for_accounts()
        return [pump.patient for _, pump in sinks._of_crm]

    assert patient() == [True, True]
    accounts["hubspot:1"] = SimpleNamespace(crm="hubspot")
    assert patient() == [False, True]
    accounts["salesforce:00D"] = SimpleNamespace(crm="salesforce")
    assert patient() == [False, False]
    accounts.clear()
    assert patient() == [True, True]
