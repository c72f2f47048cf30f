"""Choose the compiled part of the port: ``native``, or ``None`` if it is not installed or the codec is ``pure``."""

from __future__ import annotations

from erlport_bridge.term import IMPLEMENTATION

__all__ = ["native"]

try:
    from erlport_bridge.port import native
except ImportError:
    native = None  # type: ignore[assignment]
if IMPLEMENTATION != "compiled":
    native = None  # type: ignore[assignment]
