"""Improve a program by examples with DSPy's optimizers: which there are, what they take, and how one is run."""

__all__ = ["compiling", "nearest", "optimizers"]
