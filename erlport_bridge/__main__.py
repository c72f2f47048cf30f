"""Serve one port: the program ``python -m erlport_bridge``, with ErlPort's flags and a few of its own.

The real ErlPort starts ``PYTHON -u -m erlport.cli --packet=4 …``. Given ``python: "PYTHON -m erlport_bridge"``, it
starts this program with ``-u -m erlport.cli`` among the arguments. This program accepts and ignores them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from erlport_bridge import __version__
from erlport_bridge.errors import ProtocolError
from erlport_bridge.port import lifeline, logs
from erlport_bridge.port.descriptors import take_descriptors
from erlport_bridge.port.leaving import before_exit, leave
from erlport_bridge.port.runtime import DEFAULT_MAX_CALLS, Runtime
from erlport_bridge.term import FALLBACK_REASON, PACKET_SIZES, set_elixir_version
from erlport_bridge.threads import DEFAULT_MAX_QUEUED, DEFAULT_MAX_STUCK, DEFAULT_MAX_THREADS, Threads

_PROGRAM_MODULES = "DSPEX_PROGRAM_MODULES"
_OPERATIONS = "dspy_bridge"
# How long a thread computes before it must hand the GIL to a thread that waits for it. Less than the usual 5 ms,
# because deadlines, answers and the next calls wait that long.
_SWITCH_INTERVAL_S = 0.002


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line; exit with status 2 and a message if it is invalid."""
    parser = argparse.ArgumentParser(prog="python -m erlport_bridge", description="Serves one Erlang port.")
    parser.add_argument("--version", action="version", version=__version__)
    erlport = parser.add_argument_group("ErlPort's flags")
    erlport.add_argument("--packet", type=int, choices=PACKET_SIZES, default=4, help="bytes of a frame's length")
    erlport.add_argument("--use_stdio", dest="use_stdio", action="store_true", default=True, help="descriptors 0 and 1")
    erlport.add_argument("--nouse_stdio", dest="use_stdio", action="store_false", help="descriptors 3 and 4")
    erlport.add_argument("--compressed", type=int, choices=range(10), default=0, help="zlib's level for answers")
    erlport.add_argument("--buffer_size", type=int, default=65536, help="accepted; frames are read as they come")
    erlport.add_argument("-u", action="store_true", help=argparse.SUPPRESS)
    erlport.add_argument("-m", dest="erlport_cli", help=argparse.SUPPRESS)
    own = parser.add_argument_group("flags of this program")
    own.add_argument("--modules", type=_names, help="the only modules whose functions may be called, by commas")
    own.add_argument("--preload", type=_names, default=[], help="modules to import at start, by commas")
    own.add_argument("--program-modules", type=_names, help="the application's DSPy modules, classes, by commas")
    own.add_argument("--elixir-version", help="the other side's, for structs that differ between versions")
    own.add_argument("--log-to-elixir", action="store_true", help="send what is logged and printed over the port")
    own.add_argument("--max-threads", type=_positive, default=DEFAULT_MAX_THREADS, help="threads that run functions")
    own.add_argument("--max-queued", type=_positive, default=DEFAULT_MAX_QUEUED, help="calls that wait for a thread")
    own.add_argument(
        "--max-stuck",
        type=_number,
        default=DEFAULT_MAX_STUCK,
        help="threads that may be stuck; with more, work for threads is refused, or another process is asked for",
    )
    own.add_argument(
        "--ask-for-recycling", action="store_true", help="tell the other side that it should start another process"
    )
    own.add_argument("--max-calls", type=_positive, default=DEFAULT_MAX_CALLS, help="calls in flight")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the port's descriptors and serve until the other side closes them."""
    options = parse_arguments(arguments)
    # Ctrl-C in IEx reaches every process of the terminal, but is meant for IEx.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The system's default action ends the process: a handler in Python would not run while C code holds the GIL.
    # Nothing needs to be saved, and the lifeline ends the child processes.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        descriptors = take_descriptors(use_stdio=options.use_stdio)
        watch = lifeline.start(descriptors.read)
    except (ProtocolError, OSError) as error:
        sys.exit(f"erlport_bridge: {error}")
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    collected = logs.install() if options.log_to_elixir else None
    if collected:
        before_exit(collected.close)
    if FALLBACK_REASON:
        sys.stderr.write(f"erlport_bridge: terms take about 15 times as long: {FALLBACK_REASON}\n")
    if options.elixir_version:
        set_elixir_version(options.elixir_version)
    if options.program_modules:
        # The operations read this variable. They are imported now, so that a wrong name is reported at the start.
        os.environ[_PROGRAM_MODULES] = ",".join(options.program_modules)
        options.preload.append(_OPERATIONS)
    for name in options.preload:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever a module of the application raises, its name must be said
            sys.stderr.write(f"erlport_bridge: cannot preload {name!r}: {type(error).__name__}: {error}\n")
            leave(1)
    if options.modules is not None and len(options.modules) == 1:
        # Every call needs this module. An exception is left to the first call, which imports the module again.
        with contextlib.suppress(BaseException):
            importlib.import_module(options.modules[0])
    runtime = Runtime(
        descriptors,
        packet=options.packet,
        compressed=options.compressed,
        modules=options.modules,
        threads=Threads(options.max_threads, max_stuck=options.max_stuck, max_queued=options.max_queued),
        max_calls=options.max_calls,
    )
    if collected:
        runtime.send_logs(collected)
    if options.ask_for_recycling:
        runtime.ask_for_recycling()
    lifeline.wait_until_detached(watch)
    runtime.serve()


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return number


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or a positive number, got {text}")
    return number


if __name__ == "__main__":
    main()
