"""Provide a clock whose time tests set."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """A replacement for the module ``time``.

    Attributes:
        now_s: The current time, in seconds.
    """

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        """Return the current time, in seconds."""
        return self.now_s

    def time(self) -> float:
        """Return the same time, in seconds since 1970."""
        return self.now_s

    @classmethod
    def of(cls, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """Replace the clock of a module until the end of the test, and return it."""
        clock = cls()
        monkeypatch.setattr(module, "time", clock)
        return clock
