"""Change inputs in ways that lead to terms more often than libFuzzer's own changes.

libFuzzer flips bits, copies pieces and keeps inputs that reach new lines. It hardly ever finds a zlib stream, a
container with correct counts, or a length that is wrong by one. This module makes them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from random import Random

Mutate = Callable[[bytes, int], bytes]


class Mutator:
    """A source of changed inputs; the same seed and inputs give the same changes.

    Args:
        seed: The random seed.
        seeds: Terms, each with its version byte, that are inserted into inputs.
        mutate: libFuzzer's own change: input and largest size -> input.
    """

    def __init__(self, seed: int, seeds: Sequence[bytes], mutate: Mutate) -> None:
        self._random = Random(seed)  # noqa: S311  # nobody must be unable to guess these numbers
        self._seeds = seeds
        self._mutate = mutate
        self._changes: tuple[Mutate, ...] = (self._spliced, self._wrapped, self._lying, self._compressed)

    def changed(self, data: bytes, max_size: int) -> bytes:
        """Return a changed input of at most ``max_size`` bytes."""
        kind = self._random.randrange(8)
        if kind < 3:
            return self._mutate(data, max_size)  # only libFuzzer knows which inputs reached new lines
        if kind == 3:
            return self._noise(max_size)
        # Most inputs that libFuzzer keeps are refused, each for another reason. Changes of valid terms reach further.
        origin = data if kind == 4 else self._random.choice(self._seeds)
        return self._random.choice(self._changes)(origin, max_size)[:max_size]

    def _noise(self, max_size: int) -> bytes:
        head = self._random.choice((b"\x83", b"\x83", b"\x83P", b""))
        return head + self._random.randbytes(self._random.randrange(min(64, max_size)))

    def _spliced(self, data: bytes, _max_size: int) -> bytes:
        """Insert a whole term at a random position, in place of some bytes or of none."""
        start = self._random.randint(1, max(1, len(data)))
        end = start + self._random.choice((0, 0, 1, 2, 5, self._random.randrange(64)))
        return data[:start] + self._random.choice(self._seeds)[1:] + data[end:]

    def _wrapped(self, data: bytes, _max_size: int) -> bytes:
        """Make the term an element of a container with correct counts."""
        term, other = data[1:], self._random.choice(self._seeds)[1:]
        number = self._random.randrange(1, 256)
        wrapped = (
            b"h\x02" + term + other,
            b"h" + bytes([number]) + b"a\x00" * (number - 1) + term,
            b"l\x00\x00\x00\x02" + term + other + b"j",
            b"l\x00\x00\x00\x01" + term + other,
            b"t\x00\x00\x00\x01" + term + other,
            b"t\x00\x00\x00\x02a\x01" + other + term + b"j",
            b"h\x03w\x0f$erlport.opaquew\x06erlangm" + len(other).to_bytes(4, "big") + other + term[:0],
            b"t\x00\x00\x00\x02w\x0a__struct__w\x0dElixir.MapSetw\x03mapt\x00\x00\x00\x01" + term + b"j",
            b"h\x01" * number + term,
        )
        return data[:1] + self._random.choice(wrapped)

    def _lying(self, data: bytes, _max_size: int) -> bytes:
        """Overwrite four bytes with a wrong length: 0, a little less or more than the bytes left, or gigabytes."""
        if len(data) < 6:
            return data + b"\xff" * 4
        at = self._random.randrange(1, len(data) - 4)
        left = len(data) - at - 4
        length = self._random.choice((0, 1, left // 2, left - 1, left, left + 1, 2 * left, 2**28, 2**31, 2**32 - 1))
        return data[:at] + max(0, length).to_bytes(4, "big") + data[at + 4 :]

    def _compressed(self, data: bytes, max_size: int) -> bytes:
        """Compress the term, or change a compressed term's content; the declared size may be wrong."""
        body = data[1:]
        if data[1:2] == b"P":
            try:
                body = zlib.decompressobj().decompress(data[6:], 64 * max_size)
            except zlib.error:
                body = data[6:]
            body = self._mutate(body[:max_size], max_size)
        declared = len(body)
        if not self._random.randrange(4):
            declared = self._random.choice((0, 1, max(0, declared - 1), declared + 1, 2 * declared, 2**28, 2**32 - 1))
        body *= self._random.choice((1, 1, 1, 1, 1, 1, 1, 100))
        return (
            b"\x83P" + declared.to_bytes(4, "big") + zlib.compress(body, 1) + b"\x00" * (not self._random.randrange(9))
        )
