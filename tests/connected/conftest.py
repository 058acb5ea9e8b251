"""Fixtures that several files of these tests stand on."""

from tests.connected.gateway_place import migrated, official, place

__all__ = ["migrated", "official", "place"]
