"""Where a server's API lies, from the address that people copy.

Law: pure. An address that ends in /v1 is taken as it is (OpenAI's own, vLLM's, Ollama's); below any other lies Groq's
/openai/v1.
"""

from __future__ import annotations

GROQ = "https://api.groq.com"
GROQS_PATH = "/openai/v1"


def api_of(base_url: str | None) -> str:
    """The address that `/chat/completions` is put behind; without one, Groq's."""
    root = (base_url or GROQ).rstrip("/")
    return root if root.endswith("/v1") else root + GROQS_PATH


def is_groqs(api: str) -> bool:
    """Whether it speaks Groq's API, as far as its path tells."""
    return api.endswith(GROQS_PATH)
