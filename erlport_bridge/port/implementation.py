"""What is compiled of the port: in use with the compiled codec, and ``None`` where it could not be compiled."""

from __future__ import annotations

from erlport_bridge.term import IMPLEMENTATION

__all__ = ["native"]

try:
    from erlport_bridge.port import native
except ImportError:
    native = None  # type: ignore[assignment]
if IMPLEMENTATION != "compiled":
    native = None  # type: ignore[assignment]
