"""Salesforce: our properties on its records. What is the same for every CRM is in `crm_writer`."""

from __future__ import annotations

from infra.crm.vendors import connect
from sinks.destinations.crm_writer import CrmDestination
from sinks.destinations.destination import Destination, DestinationPlugin, Needs


class _Salesforce:
    name = "salesforce"

    def build(self, needs: Needs) -> Destination:
        """See DestinationPlugin."""
        return CrmDestination(needs, connect(needs.settings, (self.name,))[self.name])


PLUGIN: DestinationPlugin = _Salesforce()
