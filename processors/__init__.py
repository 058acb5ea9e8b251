"""Turn a change into an insight; may think, may not deliver."""
