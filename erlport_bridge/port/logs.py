"""Send what Python logs, warns of and prints to the log of the other side, instead of to stderr.

Used where the other side knows such messages (``--log-to-elixir``); ErlPort's Erlang half does not. Nothing here
blocks: entries go to a bounded queue, and entries that do not fit are counted. C code and child processes still write
to stderr. So does everything once the process is about to end, because then nobody may read entries any more.

``logging`` needs no additional handler: a record that any handler would have written to stdout or stderr becomes an
entry here, with its level and logger. DSPy and LiteLLM have handlers of their own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, Final, TextIO

from erlport_bridge.port.protocol import LogEntries, LogEntry
from erlport_bridge.redaction import RedactedStream, redact
from erlport_bridge.request import caller_context, is_silent, request_id

#: Largest number of queued entries; one more is dropped. At a few hundred bytes each, they take less than 1 MB.
MAX_WAITING: Final = 2_000
#: Longer texts are cut: a log is not for sending data.
MAX_CHARACTERS: Final = 8_192
_MAX_BATCH_CHARACTERS: Final = 65_536

# The interval at which to check whether the port takes data again.
_BUSY_S: Final = 0.01
# The longest time to wait for the last batch. A batch is sent without waiting for the other side, so it is short.
_LAST_BATCH_S: Final = 0.5

_STREAMS: Final = ("stdout", "stderr")
# Loggers of libraries whose records are meant for a console.
_SILENCED: Final = ("dspy", "gepa", "optuna")
_LEVELS: Final = ((logging.CRITICAL, "critical"), (logging.ERROR, "error"), (logging.WARNING, "warning"))


class Logs:
    """A queue of log entries, which a thread of its own sends in batches.

    Before :meth:`connect` entries stay in the queue; after :meth:`close` they are written to stderr.
    """

    def __init__(self) -> None:
        # Reentrant, unlike `queue.Queue`: a finalizer may log while the same thread is in a method of the queue.
        self._waiting: queue.SimpleQueue[LogEntry] = queue.SimpleQueue()
        # Wakes the sending thread. It takes entries only while it holds `_sending`, so each is in the queue, or is
        # being sent under that lock.
        self._added: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._sending = threading.RLock()
        self._lock = threading.RLock()
        self._dropped = 0
        self.is_closed = False

    def connect(self, send: Callable[[LogEntries], None], is_busy: Callable[[], bool]) -> None:
        """Send entries from now on.

        Args:
            send: Sends one message, from any thread.
            is_busy: Returns whether the port has data that the other side has not read; then no more is sent.
        """
        threading.Thread(target=self._send_batches, args=(send, is_busy), name="logs", daemon=True).start()

    def add(self, level: str, logger: str, text: str) -> None:
        """Add an entry, without blocking, and redact the secrets in it.

        Args:
            level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
            logger: The name of the logger, or of the stream for printed text.
            text: One message, of one or more lines.
        """
        text = redact(text)
        if len(text) > MAX_CHARACTERS:
            text = f"{text[:MAX_CHARACTERS]}… ({len(text) - MAX_CHARACTERS} more characters)"
        # Lone surrogates cannot be encoded.
        text = text.encode("utf-8", "backslashreplace").decode()
        entry = LogEntry(level, redact(logger), request_id.get(), text, caller_context.get())
        if self.is_closed:
            _write_plainly(entry)
        elif self._waiting.qsize() < MAX_WAITING:
            self._waiting.put(entry)
            self._added.put(None)
        else:
            with self._lock:
                self._dropped += 1

    def taken(self) -> LogEntries:
        """Take all entries out of the queue, in a process without the thread of :meth:`connect`."""
        entries = []
        while not self._waiting.empty():
            entries.append(self._waiting.get())
        dropped, self._dropped = self._dropped, 0
        return LogEntries(dropped, entries)

    def close(self) -> None:
        """Write the entries that have not been sent to stderr, and all later entries too.

        The process may end after this, so it waits until the sending thread has sent what it has taken.
        """
        self.is_closed = True
        has_sent = self._sending.acquire(timeout=_LAST_BATCH_S)
        try:
            while not self._waiting.empty():
                try:
                    _write_plainly(self._waiting.get_nowait())
                except queue.Empty:  # the sending thread has taken it, and takes longer than it may
                    break
        finally:
            if has_sent:
                self._sending.release()

    def _send_batches(self, send: Callable[[LogEntries], None], is_busy: Callable[[], bool]) -> None:
        while not self.is_closed:
            self._added.get()
            while not self._added.empty():
                self._added.get()
            while self._sends_batch(send):
                while is_busy():
                    time.sleep(_BUSY_S)

    def _sends_batch(self, send: Callable[[LogEntries], None]) -> bool:
        """Send queued entries; return ``False`` if there are none, or the process is about to end."""
        with self._sending:
            entries: list[LogEntry] = []
            characters = 0
            while not (self.is_closed or self._waiting.empty()) and characters < _MAX_BATCH_CHARACTERS:
                entries.append(self._waiting.get())
                characters += len(entries[-1].text)
            if entries:
                with self._lock:
                    dropped, self._dropped = self._dropped, 0
                send(LogEntries(dropped, entries))
        return bool(entries)


_installed: Logs | None = None


def install() -> Logs:
    """Redirect what this process logs, warns of and prints to a :class:`Logs`, and return it.

    It is the same one in a worker and in the template process from which the worker was forked, because handlers of
    ``logging`` keep the stream that they were made with.
    """
    global _installed
    if _installed is None:
        _installed = Logs()
        _install_handling()
        _install_hooks(_installed)
    sys.stdout, sys.stderr = (_Console(number, name, _installed) for number, name in enumerate(_STREAMS, 1))
    return _installed


def _install_handling() -> None:
    """Make every ``logging`` handler record which record it handles, also handlers of later imports."""
    handle = logging.Handler.handle

    def handle_here(handler: logging.Handler, record: logging.LogRecord) -> Any:
        outer = getattr(_handled, "record", None)
        _handled.record = record
        try:
            return handle(handler, record)
        finally:
            _handled.record = outer

    logging.Handler.handle = handle_here  # type: ignore[method-assign, assignment]


def _install_hooks(logs: Logs) -> None:
    def show_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        if file is None and is_silent.get():
            return
        if file is None:
            logs.add("warning", "py.warnings", text.rstrip())
        else:
            file.write(text)

    def log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
        if not issubclass(ended.exc_type, SystemExit):
            lines = traceback.format_exception(ended.exc_type, ended.exc_value, ended.exc_traceback)
            logs.add("error", "threading", "".join(lines).rstrip())

    warnings.showwarning = show_warning
    threading.excepthook = log_end_of_thread


# The record that a handler is handling now, for each thread.
_handled = threading.local()
_LOGGED: Final = "_logged_to_elixir"


class _Console(RedactedStream):
    """A replacement of ``sys.stdout`` or ``sys.stderr`` that turns whole lines and log records into entries.

    A progress bar, which restarts its line by a carriage return, becomes one entry: its last state.
    """

    def __init__(self, descriptor: int, name: str, logs: Logs) -> None:
        super().__init__(descriptor)
        self._name = name
        self._logs = logs
        # The unfinished line of each thread, so that two threads that print at once do not mix their lines.
        self._begun: dict[int, str] = {}

    def write(self, text: str) -> int:
        record = getattr(_handled, "record", None)
        if is_silent.get() and (record is None or record.name.startswith(_SILENCED)):
            return len(text)
        if record is None:
            self._print(text)
        elif _LOGGED not in record.__dict__:
            # A second handler, or a second part of the same text, must not add the record again.
            record.__dict__[_LOGGED] = True
            self._logs.add(_level(record.levelno), record.name, _message(record, text))
        return len(text)

    def flush(self) -> None:
        """Add unfinished lines as entries if the process is about to end; until then, wait for whole lines."""
        super().flush()
        while self._logs.is_closed and self._begun:
            _thread, line = self._begun.popitem()
            self._logs.add("info", self._name, line)

    def _print(self, text: str) -> None:
        thread = threading.get_ident()
        *lines, begun = (self._begun.pop(thread, "") + text).split("\n")
        for line in lines:
            if shown := _last_state(line):
                self._logs.add("info", self._name, shown)
        begun = begun[begun.rfind("\r", 0, -1) + 1 :]
        if len(begun) > MAX_CHARACTERS:
            self._logs.add("info", self._name, begun)
        elif begun:
            self._begun[thread] = begun


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2].rstrip()


def _level(number: int) -> str:
    for least, level in _LEVELS:
        if number >= least:
            return level
    return "info" if number >= logging.INFO else "debug"


_plain: Final = logging.Formatter()


def _message(record: logging.LogRecord, written: str) -> str:
    """Return a record's message and traceback, without the time and level that its handler writes before them."""
    try:
        return _plain.format(record)
    except Exception:  # noqa: BLE001 - if arguments do not fit the format, logging itself reports that in `written`
        return written.rstrip()


def _write_plainly(entry: LogEntry) -> None:
    origin = "" if entry.logger in _STREAMS else f"{entry.level} {entry.logger}: "
    # Without a stderr there is nowhere to write.
    with contextlib.suppress(OSError), io.FileIO(2, "wb", closefd=False) as stderr:
        stderr.write(f"{origin}{entry.text}\n".encode())
