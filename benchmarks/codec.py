"""The codec against erlang-py, and against orjson on the nearest JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import erlang
import orjson

from benchmarks.timing import Comparison, compare
from erlport_bridge.term import decode, encode

_RUNS = 300


def realistic_result() -> dict[str, Any]:
    """Give a result of DSPy as a term: several kB: nested maps, text, floats, demos."""
    demo = {
        "question": "What is the external term format? " * 4,
        "answer": "The BEAM's own encoding. " * 8,
        "score": 0.25,
    }
    fields = {f"field_{number}": f"some words of an answer, number {number}. " * 3 for number in range(30)}
    meta = {
        "usage": {"openai/gpt-4o-mini": {"prompt_tokens": 812, "completion_tokens": 190, "total_tokens": 1002}},
        "scores": [number / 7 for number in range(40)],
        "demos": [demo] * 5,
        "warnings": [],
        "session_id": None,
    }
    return {**fields, "$meta": meta}


def comparisons() -> Iterator[Comparison]:
    """Measure both directions."""
    term = realistic_result()
    data = encode(term)
    text = orjson.dumps(term)
    as_bytes = erlang.binary_to_term(data)
    what = f"a result of {len(data) / 1000:.1f} kB"
    yield compare(f"decode {what}", lambda: decode(data), "erlang-py", lambda: erlang.binary_to_term(data), runs=_RUNS)
    yield compare(
        f"encode {what}", lambda: encode(term), "erlang-py", lambda: erlang.term_to_binary(as_bytes), runs=_RUNS
    )
    yield compare(f"decode {what}", lambda: decode(data), "orjson on JSON", lambda: orjson.loads(text), runs=_RUNS)
    yield compare(f"encode {what}", lambda: encode(term), "orjson on JSON", lambda: orjson.dumps(term), runs=_RUNS)
