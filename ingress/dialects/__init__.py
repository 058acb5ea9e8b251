"""What the senders' messages mean: bytes in, events out. Pure; no dialect leaves this package's parent."""
