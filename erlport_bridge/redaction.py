"""Keeps API keys out of everything that leaves this process: details maps, logs, metrics.

A key is remembered when a language model is configured with it, and replaced wherever it turns up in a text.
"""

from __future__ import annotations

import threading

_REPLACEMENT = "[redacted]"

# Shorter "keys" ("x", "none", "test" of a local server) are words that occur in any text.
_MIN_SECRET_CHARACTERS = 8

_lock = threading.Lock()
_secrets: frozenset[str] = frozenset()


def remember_secret(secret: str) -> None:
    """Replace ``secret`` in every text that :func:`redact` sees from now on."""
    global _secrets
    if len(secret) >= _MIN_SECRET_CHARACTERS:
        with _lock:
            _secrets = _secrets | {secret}


def redact(text: str) -> str:
    """Give ``text`` without any remembered secret."""
    for secret in _secrets:
        text = text.replace(secret, _REPLACEMENT)
    return text
