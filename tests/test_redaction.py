"""Test that API keys never leave the process, in whatever form a text holds them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from erlport_bridge import redaction
from erlport_bridge.redaction import RedactedStream, redact, redact_beginning, remember_secret


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


@pytest.mark.parametrize("offset", range(0, 60, 7))
def test_the_beginning_of_a_long_text_has_no_part_of_a_key(offset: int) -> None:
    """A cut may go through a key, both before and after keys were replaced by something shorter or longer."""
    secret = "sk-0123456789" * 3
    remember_secret(secret)
    text = "x" * offset + f"{secret} " * 1_000
    for max_characters in range(20, 400, 17):
        found = redact_beginning(text, max_characters)
        assert len(found) <= max_characters
        assert "0123" not in found
        assert redact(text).startswith(found)


def test_redacting_the_beginning_does_not_read_all() -> None:
    for number in range(500):
        remember_secret(f"sk-0123456789-{number}")
    text = "x" * 20_000_000
    started_at = time.thread_time()
    assert redact_beginning(text, 2_000) == "x" * 2_000
    assert time.thread_time() - started_at < 0.5


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
