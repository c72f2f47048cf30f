"""Replace names of DSPy by one guarded table; :mod:`.table` says what is replaced, why, and until when.

A patch is installed if DSPy is as the table expects it. Otherwise it is left out, with a warning and a line in the
answer of ``ping``, and DSPy's own code runs instead, which is slower or does less. A feature that would be wrong or
unsafe without its patch is refused. Only this package assigns to names of DSPy.

``python -m erlport_bridge.dspy_patches`` prints which patches and names fit the installed DSPy.
"""

from erlport_bridge.dspy_patches import content_markers
from erlport_bridge.dspy_patches.installing import install, left_out, provide, require
from erlport_bridge.dspy_patches.large_requests import make_request
from erlport_bridge.dspy_patches.private_names import QUICK_MODULES
from erlport_bridge.dspy_patches.set_order import sets_as_lists
from erlport_bridge.dspy_patches.system_message import keep_system_messages

__all__ = [
    "QUICK_MODULES",
    "content_markers",
    "install",
    "keep_system_messages",
    "left_out",
    "make_request",
    "provide",
    "require",
    "sets_as_lists",
]
