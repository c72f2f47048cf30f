"""Make the terms that the benchmarks encode and decode."""

from __future__ import annotations

from erlport_bridge.term import Atom, Term

RESULTS = "list of 1,000 results"
FLOATS = "100,000 floats"
INTEGERS = "100,000 integers"

#: The lists of numbers only: formats that store a number in fewer bytes have an advantage here.
FLAT = frozenset({FLOATS, INTEGERS})


def call_frame() -> Term:
    """Return a call as Elixir sends it: atoms, short text, few elements."""
    inputs = {"question": "Where does photosynthesis happen?"}
    arguments = ["dspy.Predict", "question -> answer", inputs, {"timeout": 30_000, "session_id": None}]
    return (Atom("C"), 7, Atom("dspy_bridge"), Atom("execute_module"), arguments)


def realistic_result() -> dict[str, Term]:
    """Return a result as of DSPy: about 9 kB of nested maps, text, floats, demos."""
    demo = {
        "question": "What is the external term format? " * 4,
        "answer": "The BEAM's own encoding. " * 14,
        "score": 0.25,
    }
    fields = {f"field_{number}": f"some words of an answer, number {number}. " * 5 for number in range(29)}
    meta = {
        "usage": {"openai/gpt-4o-mini": {"prompt_tokens": 812, "completion_tokens": 190, "total_tokens": 1002}},
        "scores": [number / 7 for number in range(40)],
        "demos": [demo] * 5,
        "warnings": [],
        "session_id": None,
    }
    return {**fields, "$meta": meta}


def compared_terms() -> dict[str, Term]:
    """Return the terms that are compared with the peers, by name."""
    result = realistic_result()
    return {
        "small call frame": call_frame(),
        "result": result,
        RESULTS: [result] * 1_000,
        FLOATS: [number / 7 for number in range(100_000)],
        INTEGERS: list(range(256, 100_256)),
    }
