"""Measurements against the product's own code; each prints JSON as its last line."""
