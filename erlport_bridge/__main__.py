"""Serve one port: the program ``python -m erlport_bridge``, with ErlPort's flags and a few of its own.

The real ErlPort starts ``PYTHON -u -m erlport.cli --packet=4 …``. Given ``python: "PYTHON -I -m erlport_bridge"``, it
starts this program with ``-u -m erlport.cli`` among the arguments. This program accepts and ignores them. ``-I`` keeps
the current folder out of the search path of modules. Without it, Python itself imports modules from there first.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    # `python -m` has put the current folder first; a `json.py` there would be imported from here on.
    del sys.path[0]

import argparse
import contextlib
import functools
import importlib
import os
import signal
from collections.abc import Callable, Sequence

from erlport_bridge import __version__, store, template, worker
from erlport_bridge.errors import ProtocolError
from erlport_bridge.limits import ANSWER_BYTES, MIN_MESSAGE_BYTES, REQUEST_BYTES
from erlport_bridge.port import finalizers, importing, lifeline, logs
from erlport_bridge.port.descriptors import take_descriptors
from erlport_bridge.port.leaving import before_exit
from erlport_bridge.port.recycling import RecyclingLimits
from erlport_bridge.port.runtime import DEFAULT_MAX_CALLS, Runtime
from erlport_bridge.request import asking
from erlport_bridge.term import FALLBACK_REASON, PACKET_SIZES, set_elixir_version
from erlport_bridge.threads import (
    DEFAULT_LOST_AFTER_S,
    DEFAULT_MAX_QUEUED,
    DEFAULT_MAX_STUCK,
    DEFAULT_MAX_THREADS,
    Threads,
)

_PROGRAM_MODULES = "DSPEX_PROGRAM_MODULES"
_OPERATIONS = "dspy_bridge"
# What the operations import when a call first needs it. In a template process it is there for all workers.
_IMPORTED_LATE = ("erlport_bridge.programs.models.embedded.engine",)
_WARMING = "erlport_bridge.operations.warming"
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
        help="threads that may be stuck without taking the place of others",
    )
    own.add_argument(
        "--lost-after",
        type=_positive,
        default=round(DEFAULT_LOST_AFTER_S * 1000),
        metavar="MS",
        help="after this time an interrupted thread that goes on is lost; with more than --max-stuck lost threads, and "
        "none free, another process is asked for, or work for threads is refused",
    )
    own.add_argument(
        "--ask-for-recycling", action="store_true", help="tell the other side that it should start another process"
    )
    own.add_argument("--recycle-bytes", type=_positive, help="ask so from this resident memory on, children too")
    own.add_argument("--recycle-calls", type=_positive, help="ask so after this number of calls")
    own.add_argument("--recycle-ms", type=_positive, help="ask so after this time")
    own.add_argument("--worker", type=_positive, metavar="NUMBER", help="the number of this process in its pool")
    own.add_argument("--node", metavar="NAME", help="the node of its pool, for answers")
    own.add_argument("--asked-notes", metavar="PATH", help="where to note which calls ask a model; removed once open")
    own.add_argument("--store", help=f"the address of the port's store; with a password only as {store.VARIABLE}")
    own.add_argument(
        "--template",
        metavar="FOLDER",
        help="serve no calls; import what a worker needs, and fork workers for launchers",
    )
    own.add_argument("--warm-up", action="store_true", help="run predictions before any call, which takes its time")
    own.add_argument("--max-calls", type=_positive, default=DEFAULT_MAX_CALLS, help="calls in flight")
    own.add_argument(
        "--max-request-bytes", type=_bytes, default=REQUEST_BYTES.default, help="of a call, and of an answer of Elixir"
    )
    own.add_argument(
        "--max-answer-bytes", type=_bytes, default=ANSWER_BYTES.default, help="of an answer, and of a call of Elixir"
    )
    return parser.parse_args(arguments)


def flags_problem() -> tuple[str, str] | None:
    """Return why this interpreter cannot serve, and the remedy, if its flags forbid it."""
    if sys.flags.optimize > 1:
        return "python -OO removes docstrings, which DSPy shows to models", "leave out -OO, and unset PYTHONOPTIMIZE"
    return None


def main(arguments: Sequence[str] | None = None, *, is_forked: bool = False) -> None:
    """Take the port's descriptors and serve until the other side closes them.

    Args:
        arguments: The command line's.
        is_forked: Whether this is a worker that a template process has forked. Its launcher is its lifeline.
    """
    options = parse_arguments(arguments)
    if problem := flags_problem():
        sys.exit(f"erlport_bridge: {'; '.join(problem)}")
    if sys.flags.isolated and not is_forked:
        _add_python_path()
    # Ctrl-C in IEx reaches every process of the terminal, but is meant for IEx.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The system's default action ends the process: a handler in Python would not run while C code holds the GIL.
    # Nothing needs to be saved, and the lifeline ends the child processes.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        descriptors = take_descriptors(use_stdio=options.use_stdio)
        watch = None if is_forked else lifeline.start(descriptors.read)
    except (ProtocolError, OSError) as error:
        sys.exit(f"erlport_bridge: {error}")
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    finalizers.isolate()
    collected = logs.install() if options.log_to_elixir else None
    if collected:
        before_exit(collected.close)
    if FALLBACK_REASON and not is_forked:
        sys.stderr.write(f"erlport_bridge: terms take about 15 times as long: {FALLBACK_REASON}\n")
    if options.worker is not None:
        worker.set_number(options.worker, options.node)
    if options.elixir_version:
        set_elixir_version(options.elixir_version)
    if options.store is not None:
        if options.template or is_forked:
            # The template process may have read it for its workers.
            sys.exit(f"erlport_bridge: a template process and its workers have their store from {store.VARIABLE}")
        _use_store(options.store)
    if options.template:
        if watch is not None:
            lifeline.wait_until_detached(watch)
        preload = functools.partial(_preload_template, options)
        template.run(options.template, descriptors, preload, functools.partial(main, is_forked=True), collected)
    _preload(options)
    if options.warm_up:
        _warm_up()
    runtime = Runtime(
        descriptors,
        packet=options.packet,
        compressed=options.compressed,
        modules=options.modules,
        threads=Threads(
            options.max_threads,
            max_stuck=options.max_stuck,
            max_queued=options.max_queued,
            lost_after_s=options.lost_after / 1000,
        ),
        max_calls=options.max_calls,
        max_request_bytes=options.max_request_bytes,
        max_answer_bytes=options.max_answer_bytes,
    )
    if options.asked_notes:
        # Without the notes it is not known which calls had asked a model when this process died.
        with contextlib.suppress(OSError, ValueError):
            asking.connect(options.asked_notes)
    if collected:
        runtime.send_logs(collected)
    if options.ask_for_recycling:
        max_age_s = None if options.recycle_ms is None else options.recycle_ms / 1000
        runtime.ask_for_recycling(RecyclingLimits(options.recycle_bytes, options.recycle_calls, max_age_s))
    if watch is not None:
        lifeline.wait_until_detached(watch)
    runtime.serve()


def _preload(options: argparse.Namespace, imported: Callable[[str], object] = lambda name: None) -> None:
    """Import the modules of the options, and call ``imported`` with the name of each."""
    process = os.getpid()
    names = list(options.preload)
    if options.program_modules:
        # The operations read this variable. They are imported now, so that a wrong name is reported at the start.
        os.environ[_PROGRAM_MODULES] = ",".join(options.program_modules)
        names.append(_OPERATIONS)
    importing.preload(names, imported)
    if options.modules is not None and len(options.modules) == 1:
        # Every call needs this module.
        importing.preload_if_possible(options.modules[0], imported)
    if os.getpid() != process:
        # A module has forked this process, and the copy has gone on. Two readers of one port would lose calls.
        os._exit(1)


def _preload_template(options: argparse.Namespace, imported: Callable[[str], object]) -> None:
    """Import and build what workers need, and call ``imported`` with the name of each module."""
    _preload(options, imported)
    if _OPERATIONS in sys.modules:
        for name in _IMPORTED_LATE:
            importing.preload_if_possible(name, imported)
    _warm_up()
    imported(_WARMING)


def _warm_up() -> None:
    """Run a first prediction, if this process serves the operations; an error is left to the first call."""
    if _OPERATIONS in sys.modules:
        with contextlib.suppress(Exception):
            importlib.import_module(_WARMING).warm_up()


def _use_store(address: str) -> None:
    """Set the store of the flag in the environment, which the operations read."""
    if store.has_password(address):
        sys.exit(f"erlport_bridge: --store has a password, which ps would show; write it to {store.VARIABLE}")
    os.environ.update({store.VARIABLE: address, store.NAME_VARIABLE: "--store"})


def _add_python_path() -> None:
    """Add the folders of ``PYTHONPATH``, which ``-I`` ignores; ErlPort's option ``python_path`` sets it."""
    # An empty entry means the current folder.
    folders = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = map(os.path.abspath, folders)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return number


def _bytes(text: str) -> int:
    number = int(text)
    if number < MIN_MESSAGE_BYTES:
        raise argparse.ArgumentTypeError(f"expected at least {MIN_MESSAGE_BYTES} bytes, got {text}")
    return number


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or a positive number, got {text}")
    return number


if __name__ == "__main__":
    main()
