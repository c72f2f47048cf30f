"""DSPy's optimizers: which there are, what they take, and how one of them improves a program."""
