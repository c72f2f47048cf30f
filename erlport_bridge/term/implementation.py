"""Choose the codec: the compiled one, or the pure-Python reference if the package was installed without a C compiler.

The environment variable ``ERLPORT_BRIDGE_CODEC`` forces a codec: ``compiled`` or ``pure``.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Final, Protocol, cast

from erlport_bridge.term import pure
from erlport_bridge.term.decoding import MAX_BYTES, Buffer
from erlport_bridge.term.types import MAX_DEPTH, Term

__all__ = ["FALLBACK_REASON", "IMPLEMENTATION", "codec"]

_VARIABLE: Final = "ERLPORT_BRIDGE_CODEC"
_REMEDY: Final = "install a C compiler and Python's headers, and then erlport_bridge again"


class Codec(Protocol):
    """The interface of both codecs; ``pure`` documents it."""

    def decode(self, data: Buffer, *, max_depth: int = MAX_DEPTH, max_bytes: int = MAX_BYTES) -> Term:
        """Decode one term."""

    def encode(self, term: Term, *, compressed: int = 0, max_depth: int = MAX_DEPTH, packet: int = 0) -> bytes:
        """Encode one term."""

    def encode_frame(
        self, term: Term, *, packet: int, compressed: int = 0, max_depth: int = MAX_DEPTH
    ) -> list[bytes | memoryview]:
        """Encode one term as a frame, in parts."""


def _chosen(wanted: str | None) -> tuple[Codec, str | None]:
    """Return the codec, and the reason of a fallback to the pure codec that nobody asked for, or ``None``.

    Raises:
        ImportError: The compiled codec is asked for but is not installed.
        ValueError: There is no codec of this name.
    """
    if wanted not in (None, "", "compiled", "pure"):
        raise ValueError(f'expected "compiled" or "pure" in {_VARIABLE}, got "{wanted}"')
    if wanted == "pure":
        return pure, None
    try:
        return cast(Codec, import_module("erlport_bridge.term.native")), None
    except ImportError as error:
        reason = f"the compiled codec is missing ({error}); {_REMEDY}"
        if wanted:
            raise ImportError(f"{_VARIABLE} is {wanted}, but {reason}") from error
        return pure, reason


codec, FALLBACK_REASON = _chosen(os.environ.get(_VARIABLE))

#: ``"compiled"`` or ``"pure"``. If the pure codec is in use although nobody asked for it, :data:`FALLBACK_REASON`
#: holds the reason; otherwise it is ``None``.
IMPLEMENTATION: Final = "pure" if codec is pure else "compiled"
