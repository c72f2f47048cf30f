"""Redact API keys in everything that leaves this process: details maps, metrics, printed and logged text.

A key is remembered when a language model is configured with it, and replaced wherever it occurs in a text.
"""

from __future__ import annotations

import io
import json
import re
import threading
from typing import Final
from urllib.parse import quote

from erlport_bridge.bounded_output import BoundedOutput

_REPLACEMENT: Final = "[redacted]"

# A shorter key ("test", "none" of a local server) may be part of any word, so it is replaced as a whole word only.
_MIN_CHARACTERS_ANYWHERE: Final = 8
# A key of three letters is no secret, and three-letter words occur in every second line of code.
_MIN_SECRET_CHARACTERS: Final = 4

_lock = threading.Lock()
# The longest first: where one key begins with another, no part of the longer one may stay.
_secrets: tuple[str, ...] = ()


def remember_secret(secret: str) -> None:
    """Remember ``secret``, so that :func:`redact` replaces it, also where it is escaped in a URL or in JSON."""
    global _secrets
    plain = secret.strip()
    forms = {plain, quote(plain, safe=""), json.dumps(plain)[1:-1]}
    with _lock:
        if not forms.issubset(_secrets) and len(plain) >= _MIN_SECRET_CHARACTERS:
            _secrets = tuple(sorted(forms.union(_secrets), key=len, reverse=True))


def redact(text: str) -> str:
    """Return ``text`` with every remembered secret replaced."""
    for secret in _secrets:
        if secret not in text:
            continue
        if len(secret) >= _MIN_CHARACTERS_ANYWHERE:
            text = text.replace(secret, _REPLACEMENT)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _REPLACEMENT, text)
    return text


def redact_beginning(text: str, max_characters: int) -> str:
    """Return the beginning of ``redact(text)``; the cost does not depend on the length of the text."""
    longest = len(_secrets[0]) if _secrets else 0
    size = 2 * max_characters + longest
    if len(text) <= size:
        return redact(text)[:max_characters]
    # Half of a key may stand at the end of what was read: leave that out.
    redacted = redact(text[:size])
    return redacted[: len(redacted) - longest][:max_characters]


class RedactedStream(io.TextIOWrapper):
    """A text stream that redacts what is written to a file descriptor, for ``sys.stdout`` and ``sys.stderr``.

    Libraries log texts of providers and programs, and neither knows which texts are keys.
    What nobody reads is dropped (:mod:`erlport_bridge.bounded_output`).
    """

    def __init__(self, descriptor: int) -> None:
        output = BoundedOutput(descriptor)
        super().__init__(output, encoding="utf-8", errors="backslashreplace", write_through=True)

    def write(self, text: str) -> int:
        """Write ``text`` with its secrets replaced, and return the length of the original ``text``."""
        super().write(redact(text))
        return len(text)
