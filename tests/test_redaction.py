"""Test that API keys never leave the process, in whatever form a text holds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erlport_bridge import redaction
from erlport_bridge.redaction import RedactedStream, redact, remember_secret


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without remembered secrets, and forget the secrets of a test at its end."""
    monkeypatch.setattr(redaction, "_secrets", ())


@pytest.mark.parametrize(
    ("secret", "text", "expected"),
    [
        ("sk-0123456789", "Bearer sk-0123456789!", "Bearer [redacted]!"),
        ("sk-0123456789", "xsk-0123456789x", "x[redacted]x"),
        ("p@ss/word", "http://u:p%40ss%2Fword@host", "http://u:[redacted]@host"),
        ('quo"ted-key', '{"key": "quo\\"ted-key"}', '{"key": "[redacted]"}'),
        ("from-a-file\n", "it is from-a-file", "it is [redacted]"),
        ("k3y77", "key k3y77, not ak3y77", "key [redacted], not ak3y77"),
        ("x", "x = 1", "x = 1"),
        ("", "nothing", "nothing"),
    ],
)
def test_remembered_secret_is_replaced(secret: str, text: str, expected: str) -> None:
    remember_secret(secret)
    assert redact(text) == expected


def test_key_that_begins_with_another_is_replaced_completely() -> None:
    for secret in ("sk-project", "sk-project-longer", "sk-projec"):
        remember_secret(secret)
    assert redact("sk-project-longer") == "[redacted]"


def test_what_is_printed_and_logged_has_no_key(tmp_path: Path) -> None:
    remember_secret("sk-0123456789")
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    try:
        stream = RedactedStream(descriptor)
        print("the key is sk-0123456789", "\ud800", file=stream)
        assert stream.fileno() == descriptor
    finally:
        os.close(descriptor)
    assert (tmp_path / "log").read_text() == "the key is [redacted] \\ud800\n"
