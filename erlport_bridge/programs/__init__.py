"""The packages that know DSPy: from the arguments of an operation to a prediction as a term.

Importing this package prepares the process for DSPy; it must come before the first ``import dspy``.
"""

import os

# Otherwise DSPy fetches a list of prices from the internet before its first request, and stalls 5 s without network.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from erlport_bridge import dspy_patches

dspy_patches.install()
