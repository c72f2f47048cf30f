"""Install all patches, also those whose replacements belong to packages above ``dspy_patches``."""

from __future__ import annotations

import erlport_bridge.operations  # noqa: F401 - it imports every package that provides a replacement
