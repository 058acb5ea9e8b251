"""The operator’s hands; sees everything; nothing depends on it."""
