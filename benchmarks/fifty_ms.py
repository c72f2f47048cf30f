"""Make the provider ``embedded`` of a port answer after 50 ms, when the port imports this module."""

from benchmarks.engines import replace_embedded_model

replace_embedded_model(0.05)
