"""What could not go on: listed, shown, redriven, discarded."""

from console.dead_letters.index import of_tenant

__all__ = ["of_tenant"]
