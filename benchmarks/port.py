"""Compare calls through a port with a process that only echoes frames, and with DSPy in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import TracebackType

import dspy

from benchmarks.terms import realistic_result
from benchmarks.timing import header, in_python, medians, readable, row
from erlport_bridge.port.frames import FrameReader, SkippedFrame
from erlport_bridge.programs.models.embedded import embedded_model
from erlport_bridge.term import Atom, encode
from tests.port_process import PortProcess

# The smallest possible program behind a port: no terms, no threads.
_ECHO = """
import os
while data := os.read(0, 1 << 20):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
"""

_QUESTION = "Where does photosynthesis happen?"
_CONTEXT = "Photosynthesis turns light into chemical energy. It happens in the chloroplasts of plants."
_INPUTS = {"context": _CONTEXT, "question": _QUESTION}
_SIGNATURE = "context, question -> answer"
_SECONDS_PER_ROW = 3.0


class Echo:
    """A process that echoes all bytes; a context manager that ends the process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Echo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()

    def round_trip(self, frame: bytes) -> bytes:
        """Send one frame, its length included, and wait for its echo."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        frames = FrameReader(4)
        # A frame smaller than the pipe's capacity is written at once.
        assert os.write(self._process.stdin.fileno(), frame) == len(frame)
        while (found := frames.take()) is None:
            frames.received(os.readv(self._process.stdout.fileno(), [frames.room()]))
        assert not isinstance(found, SkippedFrame)
        return bytes(found)


def lines() -> Iterator[str]:
    """Measure one caller that waits for each answer; yield lines of Markdown."""
    yield "## Calls through a port\n"
    yield header("call", "against", "ours", "theirs", "ratio")
    term = realistic_result()
    data = encode(term, packet=4)
    small = encode((Atom("C"), 1, Atom("dspy_bridge"), Atom("ping"), []), packet=4)
    with PortProcess(["--modules=dspy_bridge"]) as port, Echo() as echo:
        port.done("configure_lm", Atom("embedded"), {})
        bare = "bare echo"
        yield _row("`ping`", lambda: port.done("ping"), bare, lambda: echo.round_trip(small))
        what = f"`ping` with a result of {len(data) / 1000:.1f} kB"
        yield _row(what, lambda: port.done("ping", term), bare, lambda: echo.round_trip(data))
        yield _row(
            "`execute_module`, `dspy.Predict`, model that answers at once",
            lambda: port.done("execute_module", "dspy.Predict", _SIGNATURE, _INPUTS),
            "the same `dspy.Predict` in Python",
            _in_this_process(),
        )


def _row(what: str, ours: Callable[[], object], peer: str, theirs: Callable[[], object]) -> str:
    batches = {name: in_python(lambda call: call(), call) for name, call in (("ours", ours), ("theirs", theirs))}
    times = medians(batches, seconds=_SECONDS_PER_ROW)
    cells = [readable(times["ours"]), readable(times["theirs"]), f"{times['ours'] / times['theirs']:.2f}"]
    return row([what, peer, *cells])


def _in_this_process() -> Callable[[], object]:
    predict = dspy.Predict(_SIGNATURE)
    lm = embedded_model()

    def ask() -> object:
        with dspy.context(lm=lm, trace=[], disable_history=True, track_usage=True):
            return predict(**_INPUTS)

    return ask
