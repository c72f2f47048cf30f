"""Make calls whose deadline passes at some point, on a busy machine too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_LONGEST_MS = 60_000

_Result = TypeVar("_Result")


def at_deadline(timeout_ms: int, attempt: Callable[[int], _Result], in_time: Callable[[_Result], bool]) -> _Result:
    """Return the result of an attempt that had come to some point when its deadline passed.

    Args:
        timeout_ms: The time of the first attempt. Each further one has twice the time.
        attempt: Makes a call with this timeout.
        in_time: Tells of a result whether the call had come so far.
    """
    while not in_time(result := attempt(timeout_ms)):
        assert timeout_ms <= _LONGEST_MS, f"too late in {timeout_ms} ms: {result}"
        timeout_ms *= 2
    return result
