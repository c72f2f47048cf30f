"""Measure requests: the time that a port adds to DSPy, many requests at once, streams, deadlines, and start-up."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.plain_dspy import INPUTS, SIGNATURE
from benchmarks.timing import header, judged, judged_rate, readable, row
from erlport_bridge.term import Atom
from tests.model_server import ModelServer
from tests.port_process import PortProcess

_HERE = Path(__file__).parent
_ROUNDS = 15
_TURN = 50
# A ratio that varies with what else the machine does is judged by the worst of so many runs.
_RUNS = 5
_CALLERS = 64
_LOOP_S = 1.0
_PREDICTIONS = 256
_WAITS = 500
_WAIT_S = 0.05
_STREAMS = 30
_BUSY = 200
_OVERRUNS = 10
_OBSERVED_TURN = 50
_OBSERVED_ROUNDS = 30
_WAYS = {"threads": "threads", "tasks": "asyncio", "loop": "a plain loop"}
_ENGINES = "benchmarks.engines"
# A port imports nothing from the folder in which it is started.
_WITH_ENGINES = {"PYTHONPATH": str(_HERE.parent)}
_WORDS = [urllib.parse.quote(text) for text in (SIGNATURE, *(INPUTS[name] for name in ("context", "question")))]

# Goals: the most time that a port adds to a stream's first chunk, and to a deadline, in ms.
_MOST_CHUNK_MS = 1.0
_MOST_LATE_MS = 50.0
# Goals: what events may add to a prediction, in µs. The first is the noise of a shared machine.
_MOST_UNHANDLED_US = 10.0
_MOST_HANDLED_US = 30.0
# Goal: the lowest ratio to the predictions a second of plain Python's better way.
_LEAST_RATE = 1.2
# Goals: the highest ratio to the peer's time or memory.
_MOST_TIME = 1.0
_MOST_AT_ONCE = 1.15
_MOST_WAITS = 1.5
_MOST_STARTING = 1.1


class Peer:
    """A process that makes one measurement for each line it reads, and answers with a line.

    Args:
        command: The command and its arguments.
        folder: The folder to run it in.
        environment: Variables added to this process's environment.
    """

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_error: object) -> None:
        # The process has nothing to save. If it waits for its own threads, closing its input would not end it.
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def read(self) -> str:
        """Wait for a line, and return it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError("the process has ended")
        return line.strip()

    def ask(self, *words: object) -> str:
        """Send a line of words that asks for a measurement, and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self.read()

    def wait_for(self, line: str) -> None:
        """Wait for the given line, and drop the lines before it."""
        while self.read() != line:
            pass


def lines() -> Iterator[str]:
    """Measure each kind of request in turn with its peer; yield lines of Markdown."""
    yield "## Requests\n"
    yield header("what", "ours", "against", "theirs", "judged")
    with Peer([sys.executable, "-m", "benchmarks.plain_dspy"], _HERE.parent) as plain:
        with ModelServer() as server, _elixir() as elixir:
            yield _one_after_another(plain, elixir)
            yield from _observed(elixir)
            yield _first_chunk(plain, elixir, f"{server.url}/v1")
            yield _deadlines(elixir, f"{server.url}/v1")
            yield _closed_loops(plain, elixir, "fifty_ms", "model of 50 ms", ("threads", "tasks"))
            yield _closed_loops(plain, elixir, "at_once", "model that answers at once", ("threads", "tasks", "loop"))
        yield _predictions_at_once(plain)
        yield from _waits()
    yield from _starting()


def _one_after_another(plain: Peer, elixir: Peer) -> str:
    runs = [
        _in_turn(
            lambda: float(elixir.ask("one_after_another", _TURN, *_WORDS)) / 1_000 / _TURN,
            lambda: float(plain.ask("one_after_another", _TURN)) / _TURN,
        )
        for _ in range(_RUNS)
    ]
    ours, theirs = _middle(runs)
    what = "`execute_module` from Elixir, model that answers at once"
    shown = f"{ours / theirs:.2f}, at worst {judged(max(a / b for a, b in runs), _MOST_TIME)}"
    return row([what, readable(ours), "the same `dspy.Predict` in Python", readable(theirs), shown])


def _closed_loops(plain: Peer, elixir: Peer, model: str, what: str, ways: tuple[str, ...]) -> str:
    """Return the row of many callers that ask again at once: predictions a second, and the CPU time of each."""

    def turn() -> list[list[float]]:
        ours = elixir.ask("closed_loop", model, _CALLERS, round(_LOOP_S * 1_000), *_WORDS)
        theirs = (plain.ask("closed_loop", model, way, _CALLERS, _LOOP_S) for way in ways)
        return [[float(value) for value in answer.split()] for answer in (ours, *theirs)]

    # The first turn, which fills caches and starts threads, does not count.
    turns = [turn() for _ in range(_RUNS + 1)][1:]
    best = max(range(1, len(ways) + 1), key=lambda way: statistics.median(found[way][0] for found in turns))
    ours, theirs = _middle([(found[0][0], found[best][0]) for found in turns])
    beam_us, python_us = (statistics.median(found[0][index] for found in turns) for index in (1, 2))
    plain_us = statistics.median(found[best][1] for found in turns)
    worst = min(found[0][0] / found[best][0] for found in turns)
    return row(
        [
            f"{_CALLERS} callers of `execute_module` on one worker, {what}",
            f"{ours:,.0f}/s, CPU {python_us:.0f} + {beam_us:.0f} µs (Python + BEAM)",
            f"{_WAYS[ways[best - 1]]} in plain Python",
            f"{theirs:,.0f}/s, CPU {plain_us:.0f} µs",
            f"{ours / theirs:.2f}, at worst {judged_rate(worst, _LEAST_RATE)}",
        ]
    )


def _observed(elixir: Peer) -> Iterator[str]:
    def measured(how: str) -> Callable[[], float]:
        return lambda: float(elixir.ask("observed", how, _OBSERVED_TURN, *_WORDS)) / 1_000

    plain, unhandled, handled = _in_turn(
        measured("plain"), measured("unhandled"), measured("handled"), rounds=_OBSERVED_ROUNDS
    )
    for what, found, most in (
        ("with the library telemetry, without handlers", unhandled, _MOST_UNHANDLED_US),
        ("with handlers of all events", handled, _MOST_HANDLED_US),
    ):
        more = f"{judged((found - plain) * 1e6, most)} µs more"
        yield row([f"`execute_module` {what}", readable(found), "without telemetry", readable(plain), more])


def _predictions_at_once(plain: Peer) -> str:
    with _port(_WAIT_S) as port:
        arguments: list[object] = ["dspy.Predict", SIGNATURE, INPUTS]
        found = _in_turn(
            lambda: _timed(lambda: _at_once(port, _PREDICTIONS, "dspy_bridge", "execute_module", arguments)),
            lambda: float(plain.ask("in_threads", _PREDICTIONS)),
            lambda: float(plain.ask("in_tasks", _PREDICTIONS)),
        )
    best = min(found[1:])
    against = "threads" if best == found[1] else "asyncio"
    cells = [readable(found[0]), f"{against} in plain Python", readable(best), judged(found[0] / best, _MOST_AT_ONCE)]
    return row([f"{_PREDICTIONS} `execute_module` at once, model of 50 ms", *cells])


def _waits() -> Iterator[str]:
    for what, function, flags in (
        ("coroutine functions", "wait", []),
        ("functions in threads", "wait_in_thread", [f"--max-threads={_WAITS}", f"--max-queued={_WAITS}"]),
    ):
        with PortProcess(flags, environment=_WITH_ENGINES) as port:
            measure = _waiting(port, function)
            found = _in_turn(measure)[0]
        cells = [readable(found), "one of them", readable(_WAIT_S), judged(found / _WAIT_S, _MOST_WAITS)]
        yield row([f"{_WAITS} calls at once that wait 50 ms, {what}", *cells])


def _waiting(port: PortProcess, function: str) -> Callable[[], float]:
    return lambda: _timed(lambda: _at_once(port, _WAITS, _ENGINES, function, []))


def _first_chunk(plain: Peer, elixir: Peer, url: str) -> str:
    found = _in_turn(
        lambda: float(elixir.ask("first_chunk", url)) / 1_000,
        lambda: float(plain.ask("first_chunk", url)),
        rounds=_STREAMS,
    )
    more = f"{judged((found[0] - found[1]) * 1_000, _MOST_CHUNK_MS)} ms more"
    cells = [readable(found[0]), "`dspy.streamify` in Python", readable(found[1]), more]
    return row(["first piece of a stream, from Elixir", *cells])


def _deadlines(elixir: Peer, url: str) -> str:
    answers = [item.partition(":") for item in elixir.ask("overrun", url, _BUSY, 300, _OVERRUNS).split()]
    late_ms = [float(late) for late, _, _ in answers]
    refused = sum(stage == "refused" for _, _, stage in answers)
    by_python = sum(stage not in ("python", "refused") for _, _, stage in answers)
    told = f"{by_python} of {_OVERRUNS} by Python, {refused} refused before"
    ours = f"{statistics.median(late_ms):.0f} ms, {max(late_ms):.0f} ms at most; {told}"
    what = f"a deadline of 300 ms while {_BUSY} callers are busy: answered later by"
    return row([what, ours, "the deadline", "0 ms", f"{judged(max(late_ms), _MOST_LATE_MS)} ms more"])


def _starting() -> Iterator[str]:
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        # Keep compiled bytecode, as after an installation, so that both compile all imports only once.
        environment = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(_ROUNDS + 1):
            ours.append(_started_port(environment))
            theirs.append(_started_dspy(environment))
    del ours[0], theirs[0]
    for index, (what, shown) in enumerate(
        (("from start to the first answer", readable), ("idle memory of a ready port", _mebibytes))
    ):
        mine, other = (statistics.median(item[index] for item in items) for items in (ours, theirs))
        yield row([what, shown(mine), "`import dspy` alone", shown(other), judged(mine / other, _MOST_STARTING)])


def _started_port(environment: dict[str, str]) -> tuple[float, float]:
    started_at = time.perf_counter()
    with PortProcess(["--use_stdio", "--modules=dspy_bridge"], environment=environment) as port:
        port.done("ping")
        return time.perf_counter() - started_at, _memory(port.process.pid)


def _started_dspy(environment: dict[str, str]) -> tuple[float, float]:
    started_at = time.perf_counter()
    program = "import dspy, sys; print(flush=True); sys.stdin.read()"
    with Peer([sys.executable, "-c", program], _HERE.parent, environment) as process:
        process.read()
        return time.perf_counter() - started_at, _memory(process.pid)


def _memory(pid: int) -> float:
    """Return the proportional set size (PSS) of a process, in MiB: private memory and its share of shared memory."""
    found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1_024


def _mebibytes(size: float) -> str:
    return f"{size:.1f} MiB"


@contextlib.contextmanager
def _port(delay_s: float) -> Iterator[PortProcess]:
    with PortProcess(environment=_WITH_ENGINES) as port:
        answer = port.call(_ENGINES, "replace_embedded_model", delay_s)
        assert answer[0] == "r", answer
        port.done("configure_lm", Atom("embedded"), {})
        yield port


@contextlib.contextmanager
def _elixir() -> Iterator[Peer]:
    with Peer(["mix", "run", str(_HERE / "requests.exs")], _HERE.parent / "mix_stub") as elixir:
        elixir.wait_for("ready")
        yield elixir


def _at_once(port: PortProcess, count: int, module: str, function: str, arguments: list[object]) -> None:
    ids = set(port.send_calls([(module, function, arguments)] * count))
    for _ in range(count):
        answer = port.receive()
        assert answer[0] == "r", answer
        ids.remove(answer[1])


def _middle(pairs: Iterable[Sequence[float]]) -> Sequence[float]:
    """Return the pair with the middle ratio."""
    ordered = sorted(pairs, key=lambda pair: pair[0] / pair[1])
    return ordered[len(ordered) // 2]


def _timed(operation: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    operation()
    return time.perf_counter() - started_at


def _in_turn(*measures: Callable[[], float], rounds: int = _ROUNDS) -> list[float]:
    """Return the median of each measure, taken in turn; the first round, which fills caches, does not count."""
    taken = [[measure() for measure in measures] for _ in range(rounds + 1)][1:]
    return [statistics.median(times) for times in zip(*taken, strict=True)]
