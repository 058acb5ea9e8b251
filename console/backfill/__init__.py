"""Backfill: every record that a CRM holds already, once, on the bulk lane, so that `crm.records` is the whole CRM."""
