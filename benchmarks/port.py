"""Calls through a port, against a process that only sends frames back, and against DSPy in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import dspy

from benchmarks.codec import realistic_result
from benchmarks.timing import Comparison, compare
from erlport_bridge.port.protocol import FrameReader, frame
from erlport_bridge.programs.embedded import embedded_model
from erlport_bridge.term import Atom, encode
from tests.port_process import PortProcess

# The least that can stand behind a port: no terms, no threads.
_ECHO = """
import os
while data := os.read(0, 1 << 20):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
"""

_QUESTION = "Where does photosynthesis happen?"
_CONTEXT = "Photosynthesis turns light into chemical energy. It happens in the chloroplasts of plants."
_SIGNATURE = "context, question -> answer"


class Echo:
    """A process that sends back what it gets."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def round_trip(self, message: bytes) -> bytes:
        """Send one frame and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        data = frame(message, 4)
        frames = FrameReader(4)
        # Smaller than a pipe, so written at once.
        assert os.write(self._process.stdin.fileno(), data) == len(data)
        while True:
            for found in frames.receive_data(os.read(self._process.stdout.fileno(), 1 << 20)):
                return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def comparisons() -> Iterator[Comparison]:
    """Measure one caller that waits for each answer."""
    echo = Echo()
    with PortProcess(["--modules=dspy_bridge"]) as port:
        port.done("configure_lm", Atom("embedded"), {})
        small = encode((Atom("C"), 1, Atom("dspy_bridge"), Atom("ping"), []))
        yield compare("call `ping`", lambda: port.done("ping"), "bare echo", lambda: echo.round_trip(small), runs=1_000)
        term = realistic_result()
        data = encode(term)
        yield compare(
            f"`ping` with a result of {len(data) / 1000:.1f} kB",
            lambda: port.done("ping", term),
            "bare echo",
            lambda: echo.round_trip(data),
            runs=300,
        )
        inputs = {"context": _CONTEXT, "question": _QUESTION}
        yield compare(
            "`execute_module`, `dspy.Predict`, model that answers at once",
            lambda: port.done("execute_module", "dspy.Predict", _SIGNATURE, inputs),
            "the same `dspy.Predict` in Python",
            _in_this_process(),
            runs=300,
        )
    echo.close()


def _in_this_process() -> Callable[[], object]:
    predict = dspy.Predict(_SIGNATURE)
    lm = embedded_model()

    def ask() -> object:
        with dspy.context(lm=lm, trace=[], disable_history=True, track_usage=True):
            return predict(context=_CONTEXT, question=_QUESTION)

    return ask
