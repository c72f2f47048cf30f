"""Compare the codec in use with the BEAM's own, codecs of shorter formats, erlang-py, and the pure reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import erlang
import msgspec
import orjson

from benchmarks.beam import Beam
from benchmarks.terms import FLAT, compared_terms
from benchmarks.timing import Batch, header, in_python, judged, medians, readable, row
from erlport_bridge.term import IMPLEMENTATION, Term, decode, encode, pure

_SECONDS_PER_ROW = 5.0

# Goals: the highest ratio to the peer's time, for any term, and for a flat list of numbers.
_GOALS = {
    "BEAM": (1.0, 2.0),
    "BEAM, fresh process": (1.0, 2.0),
    "orjson": (1.0, 2.0),
    "msgspec": (1.3, 2.0),
    "erlang-py": (0.05, 0.05),
}
_OURS = "ours"
_REFERENCE = "pure reference"

# A function and its argument.
_Use: TypeAlias = tuple[Callable[[Any], object], Any]


def lines() -> Iterator[str]:
    """Measure decoding and encoding of the terms that have goals; yield lines of Markdown."""
    yield f"## The codec ({IMPLEMENTATION}): its time, and the ratio of that to a peer's, at most its goal\n"
    yield from table(compared_terms(), _SECONDS_PER_ROW)


def table(terms: Mapping[str, Term], seconds: float) -> Iterator[str]:
    """Measure decoding and encoding of the named terms, each for about ``seconds``; yield lines of Markdown."""
    yield header("term", "bytes", "", _OURS, *_GOALS, _REFERENCE)
    other_bytes = []
    with Beam() as beam:
        for name, term in terms.items():
            data = beam.load(name, encode(term))
            if encode(decode(data)) != data:
                other_bytes.append(name)
            for operation, contestants in _contestants(beam, name, data).items():
                times = medians(contestants, seconds=seconds)
                yield row([name, f"{len(data):,}", operation, *_cells(times, flat=name in FLAT)])
    if other_bytes:
        yield f"\n**`encode` gives other bytes than `term_to_binary` for: {', '.join(other_bytes)}**"
    else:
        yield "\n`encode` gives the same bytes as `term_to_binary` with `minor_version: 2` for each of them."


def _contestants(beam: Beam, name: str, data: bytes) -> dict[str, dict[str, Batch]]:
    """Return the contestants for each direction: all get the same term, each in its own format and types.

    orjson and msgspec get the term in the types that JSON has: ``list`` for ``tuple``, ``str`` for ``Atom``.
    """
    term = decode(data)
    text = orjson.dumps(term, option=orjson.OPT_NON_STR_KEYS)
    json_term = orjson.loads(text)
    packer, unpacker = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
    decoders: dict[str, _Use] = {
        _OURS: (decode, data),
        "orjson": (orjson.loads, text),
        "msgspec": (unpacker.decode, packer.encode(json_term)),
        "erlang-py": (erlang.binary_to_term, data),
        _REFERENCE: (pure.decode, data),
    }
    encoders: dict[str, _Use] = {
        _OURS: (encode, term),
        "orjson": (orjson.dumps, json_term),
        "msgspec": (packer.encode, json_term),
        "erlang-py": (erlang.term_to_binary, erlang.binary_to_term(data)),
        _REFERENCE: (pure.encode, term),
    }
    return {
        operation: {
            "BEAM, fresh process": beam.batch(name, operation, "fresh"),
            "BEAM": beam.batch(name, operation, "steady"),
            **{peer: in_python(*use) for peer, use in uses.items()},
        }
        for operation, uses in (("decode", decoders), ("encode", encoders))
    }


def _cells(times: Mapping[str, float], *, flat: bool) -> Iterator[str]:
    ours = times[_OURS]
    yield readable(ours)
    for peer, (goal, goal_if_flat) in _GOALS.items():
        yield judged(ours / times[peer], goal_if_flat if flat else goal)
    yield f"{ours / times[_REFERENCE]:.2f}"
