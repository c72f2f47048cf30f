"""Test that what Python logs and prints is sent as log entries over a real port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.port.logs import MAX_CHARACTERS, MAX_WAITING, Logs
from erlport_bridge.port.protocol import LogEntries
from erlport_bridge.term import Atom
from tests.model_server import ModelServer
from tests.port_process import PortProcess
from tests.proc import cpu_ticks, is_runnable

SPEAKING_MODULE = """
import logging, os, subprocess, sys, threading, warnings

from erlport_bridge.programs.tools import offer
from erlport_bridge.redaction import remember_secret

class OwnHandler(logging.StreamHandler):
    '''As libraries have it: with a format of its own, on a logger that does not propagate.'''

def logs():
    logging.getLogger("app.orders").warning("order %s is late", 17)
    logging.getLogger("app.orders").info("nobody asked for this")
    own = logging.getLogger("app.own")
    own.propagate = False
    own.setLevel(logging.DEBUG)
    handler = OwnHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s [own] %(message)s"))
    own.addHandler(handler)
    own.debug("details")
    own.critical("the end")

def logs_an_exception():
    try:
        {}["missing"]
    except KeyError:
        logging.getLogger("app").exception("not found")

def logs_wrongly():
    logging.getLogger("app").warning("%d", "no number")

def logs_twice_handled():
    both = logging.getLogger("app.both")
    both.addHandler(logging.StreamHandler())
    both.addHandler(logging.StreamHandler(sys.stdout))
    both.warning("once")

def speaks_as_dspy():
    import dspy
    logging.getLogger("dspy.teleprompt").info("Bootstrapped 3 traces")

def warns():
    warnings.warn("this is old", DeprecationWarning)
    warnings.warn("this is odd")

def prints():
    print("one", 2)
    sys.stderr.write("on stderr\\n")
    print("begun, ", end="")
    print("ended")
    sys.stdout.writelines(["several\\n", "lines\\r\\n"])
    print("\\ud800 lone")

def shows_progress():
    for percent in range(101):
        sys.stderr.write(f"\\r{percent}%")
        sys.stderr.flush()
    sys.stderr.write("\\n")

def prints_from_threads():
    turn = threading.Barrier(2)
    def half(name):
        sys.stdout.write(f"{name} ")
        turn.wait()
        sys.stdout.write(f"{name}\\n")
    threads = [threading.Thread(target=half, args=(name,)) for name in "ab"]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def a_thread_ends_by_an_error():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

def writes_below_python():
    os.write(1, b"written to descriptor 1\\n")
    subprocess.run(["sh", "-c", "echo from a child; echo from a child >&2"], check=True)

def tells_a_secret():
    remember_secret("sk-12345678")
    print("the key is sk-12345678")
    logging.getLogger("app").error("refused: sk-12345678")

def prints_much(lines):
    for number in range(lines):
        print("line", number)
    print("last")

def prints_a_long_line():
    print("x" * 1_000_000)

def prints_and_leaves():
    print("a last whole line")
    logging.getLogger("app").error("a last record")
    sys.stdout.write("a last line that was begun")
    from erlport_bridge.port.leaving import leave
    leave(7)

@offer
def population(city: str) -> int:
    '''How many people live in a city.'''
    print("asked for", city)
    logging.getLogger("tools").warning("slow")
    return 1
"""

Entry = tuple[str, str, str | None, str]


class LoggingPort(PortProcess):
    """A port whose other side accepts log entries."""

    def __init__(self, flags: list[str], environment: dict[str, str]) -> None:
        super().__init__(flags, environment=environment)
        self.entries: list[Entry] = []
        self.dropped = 0

    def __enter__(self) -> LoggingPort:
        return self

    def receive(self) -> Any:
        """Return the next message other than log entries; collect the log entries before it."""
        while (message := super().receive())[0] == "L":
            self._collect(message)
        return message

    def next_entries(self, count: int) -> list[Entry]:
        """Wait for the next ``count`` log entries, and return them."""
        while len(self.entries) < count:
            self.collect_next()
        taken, self.entries = self.entries[:count], self.entries[count:]
        return taken

    def collect_next(self) -> None:
        """Wait for the next message, which must hold log entries."""
        self._collect(super().receive())

    def _collect(self, message: Any) -> None:
        name, dropped, entries = message
        assert name == "L"
        self.dropped += dropped
        self.entries += entries


@pytest.fixture
def speaking_path(tmp_path: Path) -> dict[str, str]:
    """Return the environment in which the module ``speaking`` can be called."""
    (tmp_path / "speaking.py").write_text(SPEAKING_MODULE)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.fixture
def logging_port(speaking_path: dict[str, str]) -> Iterator[LoggingPort]:
    with LoggingPort(["--log-to-elixir", "--preload=speaking"], speaking_path) as port:
        yield port


@pytest.mark.parametrize(
    ("function", "entries"),
    [
        (
            "logs",
            [
                ("warning", "app.orders", None, "order 17 is late"),
                ("debug", "app.own", None, "details"),
                ("critical", "app.own", None, "the end"),
            ],
        ),
        ("logs_twice_handled", [("warning", "app.both", None, "once")]),
        ("speaks_as_dspy", [("info", "dspy.teleprompt", None, "Bootstrapped 3 traces")]),
        (
            "prints",
            [
                ("info", "stdout", None, "one 2"),
                ("info", "stderr", None, "on stderr"),
                ("info", "stdout", None, "begun, ended"),
                ("info", "stdout", None, "several"),
                ("info", "stdout", None, "lines"),
                ("info", "stdout", None, "\\ud800 lone"),
            ],
        ),
        ("shows_progress", [("info", "stderr", None, "100%")]),
        (
            "tells_a_secret",
            [
                ("info", "stdout", None, "the key is [redacted]"),
                ("error", "app", None, "refused: [redacted]"),
            ],
        ),
    ],
)
def test_what_is_logged_and_printed_becomes_entries(
    logging_port: LoggingPort, function: str, entries: list[Entry]
) -> None:
    assert logging_port.call("speaking", function)[0] == "r"
    # The entries of this call mark the end of the entries before.
    logging_port.call("speaking", "prints")
    assert logging_port.next_entries(len(entries) + 1) == [*entries, ("info", "stdout", None, "one 2")]


def test_record_of_an_exception_is_one_entry_with_its_traceback(logging_port: LoggingPort) -> None:
    logging_port.call("speaking", "logs_an_exception")
    [(level, logger, _, text)] = logging_port.next_entries(1)
    assert (level, logger) == ("error", "app")
    assert text.startswith("not found\nTraceback (most recent call last):")
    assert text.endswith("KeyError: 'missing'")


def test_thread_that_ends_by_an_error_is_one_entry_with_its_traceback(logging_port: LoggingPort) -> None:
    logging_port.call("speaking", "a_thread_ends_by_an_error")
    [(level, logger, _, text)] = logging_port.next_entries(1)
    assert (level, logger) == ("error", "threading")
    assert text.endswith("ZeroDivisionError: division by zero")


def test_record_whose_arguments_do_not_fit_is_logged_all_the_same(logging_port: LoggingPort) -> None:
    logging_port.call("speaking", "logs_wrongly")
    [(level, logger, _, text)] = logging_port.next_entries(1)
    assert (level, logger, text) == ("warning", "app", "--- Logging error ---")


def test_warnings_are_entries_as_python_filters_them(logging_port: LoggingPort) -> None:
    logging_port.call("speaking", "warns")
    [(level, logger, _, text)] = logging_port.next_entries(1)
    assert (level, logger) == ("warning", "py.warnings")
    assert "UserWarning: this is odd" in text


def test_lines_of_two_threads_do_not_mix(logging_port: LoggingPort) -> None:
    logging_port.call("speaking", "prints_from_threads")
    assert sorted(text for _, _, _, text in logging_port.next_entries(2)) == ["a a", "b b"]


def test_entry_of_a_request_has_its_id(logging_port: LoggingPort, model_server: ModelServer) -> None:
    step = {"next_thought": "look", "next_tool_name": "population", "next_tool_args": {"city": "Turin"}}
    finish = {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}}
    model_server.script("react", *({"fields": fields} for fields in (step, finish, {"answer": "1", "reasoning": "r"})))
    config = {"model": "scripted:react", "api_base": f"{model_server.url}/v1", "api_key": "key"}
    logging_port.done("configure_lm", Atom("openai"), config)
    options = {"tools": ["population"], "request_id": "request-5"}
    logging_port.done("execute_module", "dspy.ReAct", "question -> answer", {"question": "?"}, options)
    assert logging_port.next_entries(2) == [
        ("info", "stdout", "request-5", "asked for Turin"),
        ("warning", "tools", "request-5", "slow"),
    ]


def test_flood_of_entries_blocks_no_thread_and_dropped_entries_are_counted(logging_port: LoggingPort) -> None:
    """While nothing is read, the queue keeps a bounded number of entries; kept and dropped entries add up."""
    lines = 100_000
    call_id = logging_port.send_call("speaking", "prints_much", [lines])
    # The pipe is full long before the last line. The function returns all the same, and only then the test reads.
    wait_until_idle(logging_port.process.pid)
    assert logging_port.receive() == (Atom("r"), call_id, None)
    while len(logging_port.entries) + logging_port.dropped < lines + 1:
        logging_port.collect_next()
    assert len(logging_port.entries) + logging_port.dropped == lines + 1
    assert MAX_WAITING <= len(logging_port.entries) < lines // 2


def test_long_text_is_cut(logging_port: LoggingPort) -> None:
    logging_port.call("speaking", "prints_a_long_line")
    cut = 1_000_000 - MAX_CHARACTERS
    assert logging_port.next_entries(1)[0][3] == f"{'x' * MAX_CHARACTERS}… ({cut} more characters)"


def test_output_of_c_code_and_child_processes_goes_to_stderr(logging_port: LoggingPort) -> None:
    logging_port.call("speaking", "writes_below_python")
    logging_port.close()
    assert logging_port.stderr_text() == "written to descriptor 1\nfrom a child\nfrom a child\n"


def test_unread_entries_go_to_stderr_when_the_process_exits(speaking_path: dict[str, str]) -> None:
    with LoggingPort(["--log-to-elixir"], speaking_path) as port:
        port.send_call("speaking", "prints_and_leaves", [])
        assert port.process.wait() == 7
        heard = port.stderr_text() + "\n".join(text for _, _, _, text in read_all(port))
    for words in ("a last whole line", "a last record", "a last line that was begun"):
        assert heard.count(words) == 1


def test_batch_that_is_being_sent_is_sent_before_the_process_exits() -> None:
    """It was lost: neither in the queue any more, whose rest goes to stderr, nor written to the port yet."""
    sent: list[str] = []
    has_begun = threading.Event()

    def send_slowly(batch: LogEntries) -> None:
        has_begun.set()
        time.sleep(0.1)
        sent.extend(entry.text for entry in batch.entries)

    logs = Logs()
    logs.connect(send_slowly, lambda: False)
    logs.add("info", "app", "the last words")
    assert has_begun.wait(10)
    logs.close()
    assert sent == ["the last words"]


def test_without_the_flag_everything_goes_to_stderr(speaking_path: dict[str, str]) -> None:
    with PortProcess(environment=speaking_path) as port:
        port.call("speaking", "logs")
        port.call("speaking", "tells_a_secret")
        port.close()
        stderr = port.stderr_text()
    assert "order 17 is late" in stderr
    assert "the key is [redacted]" in stderr
    assert "refused: [redacted]" in stderr


def read_all(port: LoggingPort) -> list[Entry]:
    """Return all log entries until the process ends."""
    try:
        while True:
            port.receive()
    except EOFError:
        return port.entries


def wait_until_idle(pid: int) -> None:
    """Wait until a process is idle: its CPU time does not grow, and none of its threads waits for a processor."""
    before = -1
    while (used := cpu_ticks(pid)) != before or used < 10 or is_runnable(pid):
        before = used
        time.sleep(0.2)
