"""How fast a backlog drains, stage by stage, beside bare loops that do the same reads and writes: `make bench-backlog`."""
