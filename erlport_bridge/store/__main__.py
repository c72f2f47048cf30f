"""Export a store to a file and import it into another one, without a port: ``python -m erlport_bridge.store``."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.store import transfer
from erlport_bridge.store.address import NAME_VARIABLE, VARIABLE, from_environment, has_password
from erlport_bridge.store.database import Database


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and a message if it fails."""
    parser = argparse.ArgumentParser(prog="python -m erlport_bridge.store", description=__doc__)
    parser.add_argument("command", choices=["export", "import"])
    parser.add_argument("file", help="a file of lines of JSON, which export makes; - is standard output or input")
    parser.add_argument("--store", help=f"the address of the store; with a password only in the variable {VARIABLE}")
    options = parser.parse_args(arguments)
    try:
        rows = _run(options.command, options.file, options.store)
    except OperationError as error:
        sys.exit(f"erlport_bridge.store: {message_of(error)}")
    sys.stderr.write("".join(f"{name}: {count}\n" for name, count in rows.items()))


def _run(command: str, path: str, store: str | None) -> dict[str, int]:
    if store is not None:
        if has_password(store):
            message = f"--store has a password, which ps would show; write it to {VARIABLE}"
            raise OperationError("input", message)
        os.environ.update({VARIABLE: store, NAME_VARIABLE: "--store"})
    address = from_environment()
    if address is None:
        raise OperationError("input", f"expected the address of a store: --store, or the variable {VARIABLE}")
    if command == "export" and address.path is not None and not os.path.exists(address.path):
        raise OperationError("input", f"there is no store at {address.shown}")
    database, stop = Database(address), threading.Event()
    try:
        if command == "export":
            if path == "-":
                return transfer.export_lines(database, sys.stdout.buffer, stop)
            return transfer.export_file(database, path, stop)
        if path == "-":
            return transfer.import_lines(database, sys.stdin.buffer, stop)
        return transfer.import_file(database, path, stop)
    finally:
        database.close()


if __name__ == "__main__":
    main()
