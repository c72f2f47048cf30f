"""Define the error of a write whose writer has seen something older than what is stored."""

from __future__ import annotations

from erlport_bridge.errors import OperationError


class ConflictError(OperationError):
    """Another process has changed a row since it was read; nothing is stored. Of kind ``conflict``."""

    def __init__(self, message: str) -> None:
        super().__init__("conflict", message, stage="store")
