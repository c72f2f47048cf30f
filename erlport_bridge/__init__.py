"""Serve a port between Elixir and DSPy: ``python -m erlport_bridge``.

The packages, lowest first; each imports only lower ones, and exports what others may use through its ``__init__``:

* :mod:`erlport_bridge.term`: the codec, from Erlang's external term format to Python values and back;
* :mod:`erlport_bridge.request`: the request that the current code runs for;
* :mod:`erlport_bridge.threads`: a thread pool whose work can be interrupted;
* :mod:`erlport_bridge.port`: frames, messages, and the runtime that answers calls;
* :mod:`erlport_bridge.template`: the process from which a pool's workers are forked;
* :mod:`erlport_bridge.counting`: metrics of the port;
* :mod:`erlport_bridge.dspy_patches`: every name of DSPy that is replaced;
* :mod:`erlport_bridge.programs`: from the arguments of an operation to a prediction, in subpackages;
* :mod:`erlport_bridge.optimizing`: DSPy's optimizers;
* :mod:`erlport_bridge.operations`: the functions that Elixir calls.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
