"""The Python side of a port between Elixir and DSPy.

``python -m erlport_bridge`` serves one port. The packages, from the inside out:

* :mod:`erlport_bridge.term`: bytes of Erlang's external term format and Python values, both ways;
* :mod:`erlport_bridge.port`: frames, messages, and the process that serves them;
* :mod:`erlport_bridge.programs`: everything that knows DSPy.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
