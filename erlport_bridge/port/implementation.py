"""What is compiled of the port, which is there where the compiled codec is, and in use with it."""

from __future__ import annotations

from erlport_bridge.term import IMPLEMENTATION

if IMPLEMENTATION == "compiled":
    from erlport_bridge.port import native
else:
    native = None  # type: ignore[assignment]

__all__ = ["native"]
