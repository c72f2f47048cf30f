"""What code in the sandbox may have the host build and call: DSPy's modules, with signatures read as a caller's are.

Code of ``dspy.RLM`` and ``dspy.Flex`` may write ``dspy.Predict("text -> label")``, which is built and run on this side.
DSPy gives that text to its own reader, which imports whatever a type is named like, and puts what the code passes on
into prompts as it is. A model wrote that text, so both are replaced: :mod:`erlport_bridge.dspy_patches` is given what
stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import build_signature, parse_signature
from erlport_bridge.programs.text import neutral

# What DSPy's stand-in in the sandbox calls a signature with instructions, and the tool by which it has a module built.
_SIGNATURE_MARKER: Final = "__dspy_sig__"
_CONSTRUCT_TOOL: Final = "__dspy_construct__"

_Restore = Callable[[Any, dict[str, Any]], Any]


def check_tools(tools: Mapping[str, Callable[..., Any]]) -> None:
    """Check what code in a sandbox may call.

    Raises:
        OperationError: Of kind ``missing_dependency``: it may have modules built, and DSPy would read their signatures.
    """
    if _CONSTRUCT_TOOL in tools:
        for patch in ("sandbox_signature", "sandbox_inputs"):
            dspy_patches.require(patch, "modules that code in the sandbox builds")


def _checked_signature(signature: Any, custom_types: Mapping[str, type] | None = None) -> Any:
    """Stand in for DSPy's reader; types that a signature defines itself cannot be named here."""
    instructions = None
    if isinstance(signature, dict) and signature.get(_SIGNATURE_MARKER):
        signature, instructions = signature.get("signature"), signature.get("instructions")
    if not isinstance(signature, str) or not isinstance(instructions, str | None):
        raise OperationError("signature", "expected a signature as text")
    return build_signature(parse_signature(signature, instructions=instructions))


def _neutral_inputs(restore: _Restore) -> _Restore:
    """Return a stand-in for ``restore_custom_types`` that restores images and the like, and makes all text neutral."""

    def neutral_input(value: Any, originals: dict[str, Any]) -> Any:
        restored = restore(value, originals)
        if restored is value and isinstance(value, str):
            return neutral(value)
        if isinstance(restored, list):
            return [neutral_input(item, {}) for item in restored]
        if isinstance(restored, dict):
            return {key: neutral_input(item, {}) for key, item in restored.items()}
        return restored

    return neutral_input


dspy_patches.provide("sandbox_signature", lambda _: _checked_signature)
dspy_patches.provide("sandbox_inputs", _neutral_inputs)
