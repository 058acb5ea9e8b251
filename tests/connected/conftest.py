"""Fixtures that several files of these tests stand on."""

from tests.connected.gateway_place import migrated, place

__all__ = ["migrated", "place"]
