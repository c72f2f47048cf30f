"""What Python logs, warns of and prints, as entries for the log of the other side instead of text on stderr.

Used where the other side knows such messages (``--log-to-elixir``); ErlPort's does not. Nothing here waits: entries go
to a bounded queue, and those that find it full are counted. What C code and child processes write goes to stderr as
before, and so does everything once the process is about to end, since nobody may read entries any more.

``logging`` needs no handler of ours: every handler that would have written a record on stdout or stderr gives it here,
with its level and logger, whoever has made the handler (DSPy and LiteLLM have their own).
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
from erlport_bridge.request import is_silent, request_id

#: Entries that wait to be sent; one more is dropped. Of a few hundred bytes each they take less than 1 MB.
MAX_WAITING: Final = 2_000
#: Longer texts are cut: a log is no way to send data.
MAX_CHARACTERS: Final = 8_192
_MAX_BATCH_CHARACTERS: Final = 65_536

# How often is looked whether the port takes data again.
_BUSY_S: Final = 0.01

_STREAMS: Final = ("stdout", "stderr")
# Loggers of libraries that write for a console.
_SILENCED: Final = ("dspy", "gepa", "optuna")
_LEVELS: Final = ((logging.CRITICAL, "critical"), (logging.ERROR, "error"), (logging.WARNING, "warning"))


class Logs:
    """Collects entries, and sends them in batches from a thread of its own.

    Until :meth:`connect` they wait; after :meth:`close` they are written to stderr.
    """

    def __init__(self) -> None:
        # Safe to use also where a finalizer logs while the same thread is in it, unlike `queue.Queue`.
        self._waiting: queue.SimpleQueue[LogEntry] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._dropped = 0
        self.is_closed = False

    def connect(self, send: Callable[[LogEntries], None], is_busy: Callable[[], bool]) -> None:
        """Send entries from now on.

        Args:
            send: Sends one message, from any thread.
            is_busy: Whether the port has data that the other side has not taken; more is not sent then.
        """
        threading.Thread(target=self._send_batches, args=(send, is_busy), name="logs", daemon=True).start()

    def add(self, level: str, logger: str, text: str) -> None:
        """Add an entry; never waits. Remembered secrets are taken out of it here.

        Args:
            level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
            logger: The name of the logger, or of the stream for what was printed.
            text: One message, of one or more lines.
        """
        text = redact(text)
        if len(text) > MAX_CHARACTERS:
            text = f"{text[:MAX_CHARACTERS]}… ({len(text) - MAX_CHARACTERS} more characters)"
        # Lone surrogates cannot go out.
        text = text.encode("utf-8", "backslashreplace").decode()
        entry = LogEntry(level, redact(logger), request_id.get(), text)
        if self.is_closed:
            _write_plainly(entry)
        elif self._waiting.qsize() < MAX_WAITING:
            self._waiting.put(entry)
        else:
            with self._lock:
                self._dropped += 1

    def close(self) -> None:
        """Write to stderr what has not been sent, and all that comes from now on."""
        self.is_closed = True
        while not self._waiting.empty():
            try:
                _write_plainly(self._waiting.get_nowait())
            except queue.Empty:  # the other thread has taken it, and sends it
                break

    def _send_batches(self, send: Callable[[LogEntries], None], is_busy: Callable[[], bool]) -> None:
        while not self.is_closed:
            entries = [self._waiting.get()]
            characters = len(entries[0].text)
            while characters < _MAX_BATCH_CHARACTERS and not self._waiting.empty():
                entries.append(self._waiting.get())
                characters += len(entries[-1].text)
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            send(LogEntries(dropped, entries))
            while is_busy():
                time.sleep(_BUSY_S)


def install() -> Logs:
    """Give what is logged, warned of and printed in this process to the object that is returned."""
    logs = Logs()
    sys.stdout, sys.stderr = (_Console(number, name, logs) for number, name in enumerate(_STREAMS, 1))
    _install_handling()
    _install_hooks(logs)
    return logs


def _install_handling() -> None:
    """Have every handler say which record it handles; those of libraries that are imported later too."""
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

    def tell_end_of_thread(ended: threading.ExceptHookArgs) -> None:
        if not issubclass(ended.exc_type, SystemExit):
            lines = traceback.format_exception(ended.exc_type, ended.exc_value, ended.exc_traceback)
            logs.add("error", "threading", "".join(lines).rstrip())

    warnings.showwarning = show_warning
    threading.excepthook = tell_end_of_thread


# The record that a handler of this thread is just handling.
_handled = threading.local()
_TOLD: Final = "_told_to_elixir"


class _Console(RedactedStream):
    """``sys.stdout`` or ``sys.stderr``: whole lines and log records become entries.

    A progress bar, which begins its line anew by a carriage return, becomes one entry: its last state.
    """

    def __init__(self, descriptor: int, name: str, logs: Logs) -> None:
        super().__init__(descriptor)
        self._name = name
        self._logs = logs
        # The line that each thread has begun: of two that print at the same time neither breaks the other's.
        self._begun: dict[int, str] = {}

    def write(self, text: str) -> int:
        record = getattr(_handled, "record", None)
        if is_silent.get() and (record is None or record.name.startswith(_SILENCED)):
            return len(text)
        if record is None:
            self._print(text)
        elif _TOLD not in record.__dict__:
            # Neither a second handler nor a second part of the same text tells it again.
            record.__dict__[_TOLD] = True
            self._logs.add(_level(record.levelno), record.name, _message(record, text))
        return len(text)

    def flush(self) -> None:
        """Write what was begun if the process ends; before, a line is given when it is whole."""
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
    """Give a record's message and traceback, without the time and level that the handler has put before them."""
    try:
        return _plain.format(record)
    except Exception:  # noqa: BLE001 - of arguments that do not fit, logging itself tells here, in `written`
        return written.rstrip()


def _write_plainly(entry: LogEntry) -> None:
    origin = "" if entry.logger in _STREAMS else f"{entry.level} {entry.logger}: "
    # Without a standard error nobody can be told.
    with contextlib.suppress(OSError), io.FileIO(2, "wb", closefd=False) as stderr:
        stderr.write(f"{origin}{entry.text}\n".encode())
