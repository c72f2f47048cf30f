"""Read and write the header ``traceparent`` of W3C Trace Context, which names a trace and a span in it.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import os
import random
import re
from typing import Final, NamedTuple

_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

# Not `secrets`: an id names a span and protects nothing, and the system's source takes ten times as long. Not the
# numbers of `random` itself, which programs may seed.
_random: Final = random.Random()  # noqa: S311
# The workers of a pool are forks of one process, and would give their spans the same ids.
os.register_at_fork(after_in_child=_random.seed)


class Traceparent(NamedTuple):
    """The span around a call.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits; ``None``: the call has no span around it.
        flags: Two hexadecimal digits; ``01``: the trace is recorded.
    """

    trace_id: str
    span_id: str | None = None
    flags: str = "01"

    @property
    def is_sampled(self) -> bool:
        """Return whether the caller records the trace."""
        return bool(int(self.flags, 16) & 1)

    def header(self) -> str:
        """Return the value of the header."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def read_traceparent(text: str) -> Traceparent | None:
    """Return the trace and the span that a header names; ``None`` if it is malformed, as the specification wants.

    >>> read_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    Traceparent(trace_id='0af7651916cd43dd8448eb211c80319c', span_id='b7ad6b7169203331', flags='01')
    """
    found = _FORM.fullmatch(text)
    # Only versions after 00 may have more.
    if found is None or (found[4] and text.startswith("00")):
        return None
    return Traceparent(found[1], found[2], found[3])


def new_trace() -> Traceparent:
    """Return a new trace, without a span."""
    return Traceparent(f"{_random.getrandbits(128) or 1:032x}")


def first_span_number() -> int:
    """Return the number of the first span of a recording; those of the others follow.

    The id of a span is its number as 16 hexadecimal digits.
    """
    # So many bits that the last one has 16 digits too.
    return _random.getrandbits(63) or 1
