"""Replace names of DSPy, in one guarded table: :mod:`.table` says what, why, and until when.

A patch is installed where DSPy is as the table expects it, and left out otherwise: with a warning, a line in the answer
of ``ping``, and the plain way of DSPy, which is slower or does less. What would be wrong or unsafe is refused instead.
Nothing outside of this package assigns to a name of DSPy.

``python -m erlport_bridge.dspy_patches`` says what fits the DSPy that is installed.
"""

from erlport_bridge.dspy_patches import content_markers
from erlport_bridge.dspy_patches.installing import install, left_out, provide, require
from erlport_bridge.dspy_patches.table import QUICK_MODULES

__all__ = ["QUICK_MODULES", "content_markers", "install", "left_out", "provide", "require"]
