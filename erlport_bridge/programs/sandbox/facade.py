"""What code in the sandbox may have the host build and call: DSPy's modules, with signatures read as a caller's are.

Code of ``dspy.RLM`` and ``dspy.Flex`` may write ``dspy.Predict("text -> label")``, which is built and run on this side.
DSPy gives that text to its own reader, which imports whatever a type is named like, and puts what the code passes on
into prompts as it is. Both are replaced here, once, when this module is imported: a model wrote that text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy.primitives import facade

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import build_signature, parse_signature
from erlport_bridge.programs.text import neutral

_restored = facade.restore_custom_types


def _checked_signature(signature: Any, custom_types: Mapping[str, type] | None = None) -> Any:
    """Stand in for DSPy's reader; types that a signature defines itself cannot be named here."""
    instructions = None
    if isinstance(signature, dict) and signature.get(facade.SIGNATURE_MARKER):
        signature, instructions = signature.get("signature"), signature.get("instructions")
    if not isinstance(signature, str) or not isinstance(instructions, str | None):
        raise OperationError("signature", "expected a signature as text")
    return build_signature(parse_signature(signature, instructions=instructions))


def _neutral_input(value: Any, originals: dict[str, Any]) -> Any:
    """Give an input of such a module: images and the like as what they were, all other text as text."""
    restored = _restored(value, originals)
    if restored is value and isinstance(value, str):
        return neutral(value)
    if isinstance(restored, list):
        return [_neutral_input(item, {}) for item in restored]
    if isinstance(restored, dict):
        return {key: _neutral_input(item, {}) for key, item in restored.items()}
    return restored


facade._resolve_signature = _checked_signature
facade.restore_custom_types = _neutral_input
