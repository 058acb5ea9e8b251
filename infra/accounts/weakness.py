"""What can be nobody's secret.

Law: an empty secret, or one that stands in examples, is one that everybody knows: the registry does not take it, and the front
door does not count it, however it came into the database.
"""

from __future__ import annotations

import re

MIN_CHARACTERS = 6
"""Below this a secret is tried out in no time. Senders draw far longer ones; Basic passwords that people chose are the shortest."""

_WORDS = frozenset(
    (
        *(
            "changeme",
            "changeit",
            "replaceme",
            "secret",
            "mysecret",
            "yoursecret",
            "clientsecret",
            "appsecret",
            "apikey",
        ),
        *(
            "signingsecret",
            "webhooksecret",
            "yourclientsecret",
            "yourappsecret",
            "yoursigningsecret",
            "yourwebhooksecret",
        ),
        *(
            "password",
            "passwort",
            "passw0rd",
            "placeholder",
            "default",
            "example",
            "sample",
            "dummy",
            "test",
            "testing",
        ),
        *(
            "testsecret",
            "token",
            "yourtoken",
            "admin",
            "administrator",
            "hookline",
            "hubspot",
            "salesforce",
            "webhook",
            "none",
        ),
        *(
            "null",
            "undefined",
            "todo",
            "tbd",
            "letmein",
            "qwerty",
            "123456",
            "1234567",
            "12345678",
            "123456789",
            "1234567890",
        ),
        *("whsec", "whsecchangeme", "whsecsecret", "topsecret", "supersecret"),
    )
)
_IN_BRACKETS = re.compile(rb"\s*(?:<[^>]*>|\$\{[^}]*\}|\{\{.*\}\}|%[A-Z_]+%)\s*", re.DOTALL)
_NOT_LETTERS = re.compile(r"[^a-z0-9]")


def weakness(secret: bytes) -> str | None:
    """Why this can be nobody's secret, in words for an administrator; None when it may be one."""
    stripped = secret.strip()
    if not stripped:
        return "it is empty"
    if len(stripped.removeprefix(b"whsec_")) < MIN_CHARACTERS:
        return f"it is shorter than {MIN_CHARACTERS} characters"
    if len(set(stripped)) == 1 or _IN_BRACKETS.fullmatch(stripped):
        return "it is a placeholder"
    if _NOT_LETTERS.sub("", stripped.decode("utf-8", "replace").lower()) in _WORDS:
        return "it is a placeholder or a word that everybody tries first"
    return None
