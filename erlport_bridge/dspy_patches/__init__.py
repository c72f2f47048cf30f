"""Replace names of DSPy, in one guarded table."""

__all__ = [
    "shortcuts",
]
