"""Every operation of the API."""

from __future__ import annotations

from console.api import connections, traffic
from console.api.routes import Operation

OPERATIONS: tuple[Operation, ...] = (*connections.OPERATIONS, *traffic.OPERATIONS)
