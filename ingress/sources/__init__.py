"""The dialects that reach us, one module each, found by their constant `PLUGIN`."""
