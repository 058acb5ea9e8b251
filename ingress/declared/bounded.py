"""JMESPath within bounds: what a declaration asks of a body, compiled once, and stopped when it asks too much.

Law: an expression of at most so many characters and nodes, and a search of at most so many steps, elements, characters and
seconds; whatever goes wrong is one error that names no content of the body. The grammar and its functions are the `jmespath`
library's own; only its interpreter is watched.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

MAX_CHARACTERS = 1_000
MAX_NODES = 200
MAX_STEPS = 200_000
MAX_ELEMENTS = 20_000
MAX_TEXT = 1_000_000
MAX_SECONDS = 0.5


class ExpressionError(ValueError):
    """An expression that cannot be compiled, or a search that failed; the text holds nothing of the body."""


class Budget:
    """What one delivery may cost, over all its expressions and events."""

    __slots__ = ("_ends", "steps")

    def __init__(self, seconds: float = MAX_SECONDS, steps: int = MAX_STEPS) -> None:
        self._ends = time.monotonic() + seconds
        self.steps = steps

    def spend(self) -> None:
        """One step; raises ExpressionError when there are none left."""
        self.steps -= 1
        if self.steps < 0:
            raise ExpressionError("it takes too many steps on this body")
        if self.steps % 256 == 0 and time.monotonic() > self._ends:
            raise ExpressionError("it takes too long on this body")


class _Watched(TreeInterpreter):
    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._budget.spend()
        found = super().visit(node, *args, **kwargs)
        if (isinstance(found, list | dict) and len(found) > MAX_ELEMENTS) or (
            isinstance(found, str) and len(found) > MAX_TEXT
        ):
            raise ExpressionError("it makes more of this body than is allowed")
        return found


class Expression:
    """One compiled expression; made once per declaration, used for every delivery."""

    def __init__(self, text: str) -> None:
        """Raises ExpressionError, saying where the expression ends to make sense."""
        if len(text) > MAX_CHARACTERS:
            raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
        try:
            self._tree = jmespath.compile(text).parsed
        except JMESPathError as error:
            raise ExpressionError(f"no JMESPath expression: {' '.join(str(error).split())}") from None
        except (RecursionError, ValueError):
            raise ExpressionError("no JMESPath expression that can be read") from None
        nodes = _nodes(self._tree)
        unknown = [
            node["value"]
            for node in nodes
            if node["type"] == "function_expression" and node["value"] not in Functions.FUNCTION_TABLE
        ]
        if unknown:
            raise ExpressionError(
                f"JMESPath has no function {unknown[0]!r}; it has {', '.join(sorted(Functions.FUNCTION_TABLE))}"
            )
        if len(nodes) > MAX_NODES:
            raise ExpressionError(f"more than {MAX_NODES} parts: divide the work, or send a simpler body")
        self.text = text

    def search(self, data: Any, budget: Budget) -> Any:
        """What it finds; None where there is nothing. Raises ExpressionError."""
        try:
            return _Watched(budget).visit(self._tree, data)
        except ExpressionError:
            raise
        except (JMESPathError, RecursionError, TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            # The library's message repeats the value.
            raise ExpressionError(f"it fails on this body ({type(error).__name__})") from None


def _nodes(tree: Any) -> list[Any]:
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting.extend(child for child in node.get("children", ()) if isinstance(child, dict))
    return found


@lru_cache(maxsize=4_096)
def compiled(text: str) -> Expression:
    """The expression, compiled once however many endpoints use it. Raises ExpressionError."""
    return Expression(text)
