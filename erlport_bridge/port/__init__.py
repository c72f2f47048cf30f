"""Serve one port: frames, messages, and the runtime that answers calls; nothing here knows DSPy.

Other packages may import the modules listed here; this package imports none of them itself.
"""

__all__ = [
    "answers",
    "descriptors",
    "elixir",
    "event_loop",
    "finalizers",
    "importing",
    "leaving",
    "lifeline",
    "logs",
    "recycling",
    "runtime",
    "stock",
]
