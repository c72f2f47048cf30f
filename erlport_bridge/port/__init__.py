"""Serve one port: frames, messages, and the process that answers calls; nothing here knows DSPy.

Other packages use these modules; none of them is imported before it is asked for.
"""

__all__ = ["descriptors", "elixir", "event_loop", "importing", "leaving", "lifeline", "logs", "runtime", "stock"]
