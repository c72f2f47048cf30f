"""Keeps API keys out of everything that leaves this process: details maps, metrics, and what is printed or logged.

A key is remembered when a language model is configured with it, and replaced wherever it turns up in a text.
"""

from __future__ import annotations

import io
import json
import re
import threading
from typing import Final
from urllib.parse import quote

_REPLACEMENT: Final = "[redacted]"

# A shorter key ("test", "none" of a local server) may be a part of any word: it is replaced as a whole word only.
_MIN_CHARACTERS_ANYWHERE: Final = 8
# Nobody keeps a secret of three letters, and as words they stand in every second line of code.
_MIN_SECRET_CHARACTERS: Final = 4

_lock = threading.Lock()
# The longest first: of a key that begins with another one, the rest must not stay.
_secrets: tuple[str, ...] = ()


def remember_secret(secret: str) -> None:
    """Replace ``secret``, also as it stands in a URL or in JSON, in every text that :func:`redact` sees from now on."""
    global _secrets
    plain = secret.strip()
    forms = {plain, quote(plain, safe=""), json.dumps(plain)[1:-1]}
    with _lock:
        if not forms.issubset(_secrets) and len(plain) >= _MIN_SECRET_CHARACTERS:
            _secrets = tuple(sorted(forms.union(_secrets), key=len, reverse=True))


def redact(text: str) -> str:
    """Give ``text`` without any remembered secret."""
    for secret in _secrets:
        if secret not in text:
            continue
        if len(secret) >= _MIN_CHARACTERS_ANYWHERE:
            text = text.replace(secret, _REPLACEMENT)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _REPLACEMENT, text)
    return text


class RedactedStream(io.TextIOWrapper):
    """A text stream to a descriptor through which no remembered secret passes, for ``sys.stdout`` and ``sys.stderr``.

    A library logs what a provider or a program said, and neither knows what is a key here.
    """

    def __init__(self, descriptor: int) -> None:
        binary = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115 - open as long as the process
        super().__init__(binary, encoding="utf-8", errors="backslashreplace", write_through=True)

    def write(self, text: str) -> int:
        """Write ``text`` without the secrets in it."""
        super().write(redact(text))
        return len(text)
