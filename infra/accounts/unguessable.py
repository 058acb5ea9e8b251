"""Texts that nobody can guess, as people paste them into a command line."""

from __future__ import annotations

import secrets


def unguessable(size: int) -> str:
    """`size` random bytes in URL-safe characters; never one that a command would take for an option (`-Yx…`)."""
    while (text := secrets.token_urlsafe(size)).startswith("-"):
        pass
    return text
