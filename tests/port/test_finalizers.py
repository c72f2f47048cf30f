"""Test that finalizers of a garbage collection do not change the context that it interrupts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from erlport_bridge.port import finalizers
from erlport_bridge.port.implementation import native

pytestmark = pytest.mark.skipif(
    not finalizers.IS_NEEDED or native is None, reason="needs the compiled port and a Python before 3.12"
)

# Garbage whose finalizers set variables is collected while variables are set.
SETS = """
import gc
from contextvars import ContextVar

from erlport_bridge.port import finalizers

finalizers.isolate()
finalizers.isolate()
assert len(gc.callbacks) == 1
outer = [ContextVar(str(number)) for number in range(200)]


def abandoned():
    try:
        yield
    finally:
        for variable in outer[:40]:
            variable.set(object())


def leave_garbage():
    generator = abandoned()
    next(generator)
    cycle = [generator]
    cycle.append(cycle)


gc.set_threshold(3, 2, 2)
for number in range(1_000):
    leave_garbage()
    for variable in outer:
        variable.set(number)
    assert all(variable.get() == number for variable in outer)
"""


def test_finalizers_that_set_variables_do_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", SETS], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
