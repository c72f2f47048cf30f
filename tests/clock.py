"""A time that tests move."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """Stands in for the module ``time``.

    Attributes:
        now_s: What time it is.
    """

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        """Give the time in seconds."""
        return self.now_s

    def time(self) -> float:
        """Give the same time, in seconds since 1970."""
        return self.now_s

    @classmethod
    def of(cls, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """Give the time of a module for as long as a test lasts."""
        clock = cls()
        monkeypatch.setattr(module, "time", clock)
        return clock
