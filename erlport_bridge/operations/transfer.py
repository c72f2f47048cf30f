"""Write the whole store of the port to a file, and read one into it: ``export_store`` and ``import_store``."""

from __future__ import annotations

import os
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.operations.operation import operation
from erlport_bridge.operations.port_state import stored
from erlport_bridge.programs.text import arguments
from erlport_bridge.store import Store, transfer


@operation
async def export_store(path: object) -> dict[str, Any]:
    """Write the store to a new file of JSON lines, as it is at one moment; answer its rows by table."""
    file = _path(path)
    return await _store().transfer(lambda database, stop: transfer.export_file(database, file, stop))


@operation
async def import_store(path: object) -> dict[str, Any]:
    """Read a file of ``export_store`` into the store, as a whole or not at all; answer its rows by table."""
    file = _path(path)
    return await _store().transfer(lambda database, stop: transfer.import_file(database, file, stop))


def _path(path: object) -> str:
    text = arguments.text(path, "path")
    if "\0" in text:
        raise OperationError("input", "expected a path without a zero byte at path", path="path")
    return os.path.abspath(text)


def _store() -> Store:
    if stored.store is None:
        message = (
            "there is no store to read or to write: the pool has store: false; give it an address, such as "
            '"sqlite:////srv/app/dspex.db", or a port without a pool the variable DSPEX_STORE'
        )
        raise OperationError("input", message)
    return stored.store
