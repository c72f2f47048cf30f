"""Collect the first inputs: terms that real BEAMs wrote, and messages of the port."""

from __future__ import annotations

from pathlib import Path

from erlport_bridge.term import Atom, ImproperList, Term
from erlport_bridge.term.pure import encode

#: Longest input, in bytes. Every shape and every wrong length fits in it, and short inputs are fast.
MAX_INPUT_BYTES = 4096

_CONFORMANCE = Path(__file__).parent.parent / "conformance"

#: Bytes that random changes hardly ever find: atoms that mean something to the codec, and heads of terms.
TOKENS = (
    *(b"\x77" + bytes([len(name)]) + name for name in (b"nil", b"true", b"false", b"erlang", b"python", b"utf8")),
    *(b"\x77" + bytes([len(name)]) + name for name in (b"__struct__", b"$erlport.opaque", b"Elixir.Calendar.ISO")),
    *(b"\x77" + bytes([len(name)]) + name for name in (b"Elixir.Date", b"Elixir.MapSet", b"Elixir.Decimal")),
    *(bytes([tag, 0, 0, 0, 1]) for tag in b"ltmiou"),
    *(bytes([tag]) + b"\xff\xff\xff\xff" for tag in b"ltmioMpu"),
    *(bytes([tag, 0]) for tag in b"hnswv"),
    *(bytes([tag]) + b"w\x00" for tag in b"gfeqXYx"),
    *(b"\x83", b"\x83P", b"j", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x10\x00\x00\x00"),
    b"F\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"c1.50000000000000000000e+00" + b"\x00" * 5,
)


def seeds() -> list[bytes]:
    """Return the first inputs, none longer than :data:`MAX_INPUT_BYTES`."""
    found = [*_terms_of_beams(), *map(encode, _messages()), *(encode(term, compressed=9) for term in _messages())]
    return list(dict.fromkeys(seed for seed in found if len(seed) <= MAX_INPUT_BYTES))


def _terms_of_beams() -> list[bytes]:
    lines = [
        line
        for file in (*sorted(_CONFORMANCE.glob("terms-*.tsv")), _CONFORMANCE / "refused.tsv")
        for line in file.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    return [bytes.fromhex(line.rsplit("\t", 1)[1]) for line in lines]


def _messages() -> list[Term]:
    inputs = {"question": "What is ł?", "context": ["a", "b" * 300, b"\xff\x00"], Atom("n"): 3}
    options = {"timeout": 30_000, "session_id": None, "lm": {"temperature": 0.7, "max_tokens": 256}}
    prediction = {"answer": "yes", "$meta": {"usage": {"total": 12}, "warnings": [], "completions": [{}] * 20}}
    call = (Atom("C"), 7, Atom("dspy_bridge"), Atom("execute_module"), ["dspy.Predict", "q -> a", inputs, options])
    deep: Term = []
    for _ in range(500):
        deep = [deep]
    return [
        call,
        (Atom("M"), {Atom("event"): Atom("tick")}),
        (Atom("r"), 7, (Atom("ok"), prediction)),
        (Atom("e"), 7, (Atom("python"), Atom("ValueError"), "no such field", ["line 1", "line 2"])),
        (Atom("P"), list(b"printed")),
        (Atom("M"), ImproperList([1, 2.5, 2**70, -(2**31)], Atom("tail"))),
        (Atom("M"), deep),
        (Atom("M"), [0.5] * 100, list(range(250, 350)), [{"a": n, "b": [n]} for n in range(40)]),
        {(1, "a"): {2: 3}, 4: ({"key": [None, True, False]},)},
    ]
