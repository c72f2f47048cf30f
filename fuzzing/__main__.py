"""Run the fuzzer: ``python -m fuzzing [inputs] [--seed N] [--processes N] [--timeout S] [--codec MODULE]``.

The exit status is 0 if every input passed. Otherwise it is 1, and the input of the failure is printed as hex, with the
seed of its process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzzing.checks import Figures

INPUTS = 2_000_000
REFERENCE = "erlport_bridge.term.pure"
COMPILED = "erlport_bridge.term.native"

#: The timeout of one input, in seconds: some thousand times as long as an input takes.
TIMEOUT_S = 10

_LAST_LINES_OF_LOG = 30
_POLL_S = 0.2


def main() -> int:
    """Run the fuzzer, print the result, and return the exit status."""
    arguments = _arguments()
    codecs = [REFERENCE, *arguments.codec]
    print(f"{arguments.inputs:,} inputs, seed {arguments.seed}, codecs: {', '.join(codecs)}", flush=True)
    # A signal to end this process must end its workers, too: `timeout` and continuous integration send SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder, str(number)) for number in range(arguments.processes)]
        workers = [_start(arguments, codecs, each) for each in folders]
        try:
            failed = _first_failed(workers)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        if failed is not None:
            _report(folders[failed], arguments.seed + failed, workers[failed].returncode)
            return 1
        figures = [Figures(**json.loads((each / "figures.json").read_text())) for each in folders]
    print(_line(figures, time.monotonic() - started))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzzing")
    parser.add_argument("inputs", type=int, nargs="?", default=INPUTS)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**30) + 1)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--timeout", type=int, default=TIMEOUT_S, help="seconds for one input")
    compiled = [COMPILED] if importlib.util.find_spec(COMPILED) else []
    parser.add_argument("--codec", nargs="*", default=compiled, help="modules to compare with the reference")
    return parser.parse_args()


def _start(arguments: argparse.Namespace, codecs: list[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir()
    number = int(folder.name)
    inputs = arguments.inputs // arguments.processes + (number < arguments.inputs % arguments.processes)
    numbers = map(str, (inputs, arguments.seed + number, arguments.timeout))
    command = [sys.executable, "-m", "fuzzing.worker", *numbers, str(folder), *codecs]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _first_failed(workers: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait until a process fails, and return its number; return ``None`` when all have passed."""
    while True:
        statuses = [worker.poll() for worker in workers]
        for number, status in enumerate(statuses):
            if status:
                return number
        if None not in statuses:
            return None
        time.sleep(_POLL_S)


def _report(folder: Path, seed: int, status: int) -> None:
    """Print why a process failed and with which input."""
    log = (folder / "log").read_text(errors="replace").splitlines()
    print(*log[-_LAST_LINES_OF_LOG:], sep="\n")
    for artifact in folder.glob("*-*"):
        print(f"{artifact.name.partition('-')[0]} with the input {artifact.read_bytes().hex()}")
    print(f"failed with status {status}; seed {seed}")


def _line(figures: list[Figures], seconds: float) -> str:
    inputs = sum(each.inputs for each in figures)
    accepted = sum(each.accepted for each in figures)
    return (
        f"{inputs:,} inputs, {accepted:,} accepted, {inputs - accepted:,} refused, {seconds:.0f} s; highest allocation "
        f"{max(each.highest_ratio for each in figures):.1f} bytes per byte of an input of 1 KiB and more, "
        f"{max(each.highest_share for each in figures):.0%} of what is allowed"
    )


if __name__ == "__main__":
    sys.exit(main())
