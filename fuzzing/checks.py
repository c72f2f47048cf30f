"""Check the properties that must hold for every input, and collect the figures of a run."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from erlport_bridge.errors import DecodeError
from erlport_bridge.term import Term
from erlport_bridge.term.pure import decode_elements
from fuzzing.comparison import same_term

#: The largest allowed peak of allocations while decoding: so many bytes for each byte of input, and a constant.
#: A list of empty lists, one byte each, costs Python 64 bytes per byte, so that a valid input of more than some 21 KiB
#: can exceed the limit. The inputs here are shorter: a codec that exceeds it has trusted a declared length.
ALLOWED_PER_BYTE = 16
ALLOWED_BESIDE = 1024 * 1024

# For shorter inputs the ratio means nothing: the first list alone takes 56 bytes.
_MIN_BYTES_FOR_RATIO = 1024
_MAX_INFLATED = 16 * 1024 * 1024
_COMPRESSED = b"\x83P"
_TUPLES = (b"\x83h", b"\x83i")


class Codec(Protocol):
    """A module that decodes and encodes: ``erlport_bridge.term.pure`` or ``erlport_bridge.term.native``."""

    def decode(self, data: Any, *, max_depth: int = ..., max_bytes: int = ...) -> Term:
        """Decode one term."""

    def encode(self, term: Term, *, compressed: int = ..., packet: int = ...) -> bytes:
        """Encode one term."""


class CheckFailedError(AssertionError):
    """Raised for an input that breaks a property that must hold for every input."""


class Outcome(NamedTuple):
    """The outcome of decoding: a term, or the reason and offset of the error."""

    term: Term
    error: tuple[str, int] | None = None


@dataclass
class Figures:
    """The figures of a run.

    Attributes:
        inputs: Number of checked inputs.
        accepted: Number of inputs that were decoded; the others were refused.
        highest_ratio: Highest peak of allocations per byte of input, among inputs of 1 KiB and more.
        highest_share: Highest peak of allocations relative to the limit, among all inputs; 1.0 is the limit.
    """

    inputs: int = 0
    accepted: int = 0
    highest_ratio: float = 0.0
    highest_share: float = 0.0


@dataclass
class Checks:
    """The checks of one process; the first codec is the reference that the others are compared with."""

    codecs: Sequence[Codec]
    figures: Figures = field(default_factory=Figures)

    def check(self, data: bytes) -> None:
        """Check one input.

        Raises:
            CheckFailedError: Two codecs disagree, a term does not come back, or decoding allocates too much.
            Exception: Any other exception that a codec raises is a failure, too.
        """
        self.figures.inputs += 1
        expected = self._agreed_outcome(data, {})
        # The additional checks of an input depend on the input alone, so that a failure can be reproduced.
        dice = zlib.crc32(data)
        if dice % 8 == 1:
            self._agreed_outcome(data, {"max_depth": dice // 8 % 8})
        if dice % 8 == 2:
            self._agreed_outcome(data, {"max_bytes": dice // 8 % 512})
        if dice % 8 == 3 and not _same(expected, self._agreed_outcome(memoryview(data), {})):
            raise CheckFailedError("a memoryview is decoded to something else than bytes")
        if expected.error is None:
            self.figures.accepted += 1
            self._check_round_trip(expected.term, compressed=6 if dice % 8 == 4 else 0)
        _check_elements(data, expected)

    def _agreed_outcome(self, data: bytes | memoryview, options: dict[str, int]) -> Outcome:
        reference = self._measured_outcome(self.codecs[0], data, options)
        for codec in self.codecs[1:]:
            outcome = self._measured_outcome(codec, data, options)
            if not _same(reference, outcome):
                raise CheckFailedError(f"the codecs disagree with {options}: {reference!r:.2000} and {outcome!r:.2000}")
        return reference

    def _measured_outcome(self, codec: Codec, data: bytes | memoryview, options: dict[str, int]) -> Outcome:
        outcome, peak = _measured(codec, data, options)
        allowed = _allowed_bytes(data)
        ratio = peak / len(data) if len(data) >= _MIN_BYTES_FOR_RATIO and data[:2] != _COMPRESSED else 0.0
        if ratio > self.figures.highest_ratio or peak / allowed > self.figures.highest_share:
            # A new atom is kept, in tables that double now and then. Only the peak with known atoms counts, so the
            # input is decoded once more.
            _, peak_again = _measured(codec, data, options)
            peak = min(peak, peak_again)
            if peak > allowed:
                raise CheckFailedError(f"{peak} bytes were allocated for {len(data)}; {allowed} are allowed")
            if ratio:
                self.figures.highest_ratio = max(self.figures.highest_ratio, peak / len(data))
            self.figures.highest_share = max(self.figures.highest_share, peak / allowed)
        return outcome

    def _check_round_trip(self, term: Term, compressed: int) -> None:
        encoded = self.codecs[0].encode(term, compressed=compressed)
        for codec in self.codecs:
            if codec.encode(term, compressed=compressed) != encoded:
                raise CheckFailedError(f"the codecs encode {term!r:.2000} to different bytes")
            if codec.encode(term, compressed=compressed, packet=4) != len(encoded).to_bytes(4, "big") + encoded:
                raise CheckFailedError(f"{term!r:.2000} is another frame than its length and its bytes")
            if not same_term(codec.decode(encoded), term):
                raise CheckFailedError(f"{term!r:.2000} comes back as {codec.decode(encoded)!r:.2000}")


def _measured(codec: Codec, data: bytes | memoryview, options: dict[str, int]) -> tuple[Outcome, int]:
    """Decode; return the outcome and the peak of allocated bytes."""
    tracemalloc.start()
    try:
        outcome = _outcome(codec.decode, data, options)
        return outcome, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _outcome(decode: Callable[..., Term], data: bytes | memoryview, options: dict[str, int]) -> Outcome:
    try:
        return Outcome(decode(data, **options))
    except DecodeError as error:
        return Outcome(None, (error.reason, error.offset))


def _allowed_bytes(data: bytes | memoryview) -> int:
    """Return how many bytes decoding may allocate; a compressed input counts with its real inflated size."""
    size = len(data)
    if data[:2] == _COMPRESSED:
        inflater = zlib.decompressobj()
        try:
            size += len(inflater.decompress(data[6:], _MAX_INFLATED))
        except zlib.error:
            # The output before the error is lost; deflate inflates a byte to at most 1,032 bytes.
            size *= 1032
    return ALLOWED_PER_BYTE * size + ALLOWED_BESIDE


def _same(one: Outcome, other: Outcome) -> bool:
    return one.error == other.error and same_term(one.term, other.term)


def _check_elements(data: bytes, whole: Outcome) -> None:
    """Check that decoding only the first elements of a tuple agrees, as the port does for an unreadable call."""
    is_tuple = type(whole.term) is tuple
    elements = _outcome(decode_elements, data, {"count": len(whole.term) if is_tuple else 2})
    # Except for a tuple as the tail of a list without elements, and for a compressed tuple: no BEAM writes these.
    if is_tuple and data[:2] in _TUPLES and not _same(whole, elements):
        raise CheckFailedError(f"the elements of a tuple are not the tuple: {whole!r:.2000} and {elements!r:.2000}")
