"""No input, reply or answer of one call keeps the event loop from noticing the deadlines of others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lateness import CALLS, WatchedPort

# In CPU time of the port, since the machine may be busy. The bound is generous: what blocked the loop did so for
# seconds.
_MOST_MS = 250


@pytest.fixture(scope="module")
def watched() -> Iterator[WatchedPort]:
    with WatchedPort() as port:
        yield port


@pytest.fixture(scope="module")
def quiet_ms(watched: WatchedPort) -> float:
    """How late timers are while a call only waits for its model."""
    lm = watched.model({"fields": {"answer": "x"}, "delay_ms": 200})
    call = ("execute_module", "dspy.Predict", "question -> answer", {"question": "x"}, {"lm": lm})
    return watched.during(*call).worst_cpu_ms


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_brings_much_does_not_delay_others(what: str, watched: WatchedPort, quiet_ms: float) -> None:
    found = watched.during(*CALLS[what](watched))
    assert found.worst_cpu_ms < max(_MOST_MS, 20 * quiet_ms), found.answer
