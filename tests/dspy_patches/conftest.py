"""All patches are installed, those too whose replacements higher packages have."""

from __future__ import annotations

import erlport_bridge.operations  # noqa: F401 - it imports every package that provides a replacement
