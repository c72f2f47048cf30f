"""Everything that knows DSPy: from the arguments of an operation to a prediction as a term.

Importing this package prepares the process for DSPy; it must come before the first ``import dspy``.
"""

import os

# DSPy asks the internet for a list of prices before its first request otherwise, and stalls 5 s where there is none.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from erlport_bridge import dspy_patches

dspy_patches.install()
