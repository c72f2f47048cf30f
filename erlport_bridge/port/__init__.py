"""The port: frames, messages, and the process that serves them. Knows nothing of DSPy."""
