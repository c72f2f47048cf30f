"""Improve a program by examples with DSPy's optimizers: their names and options, and how one is run."""

__all__ = ["compiling", "nearest", "optimizers"]
