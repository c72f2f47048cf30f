"""Secure the DSPy modules that code in the sandbox has the host build: parse their signatures, neutralize their inputs.

Code of ``dspy.RLM`` and ``dspy.Flex`` may write ``dspy.Predict("text -> label")``, which the host builds and runs. DSPy
passes the signature to its own parser, which imports any module that a type is named like, and puts inputs from the
code into prompts unchanged. A model wrote the signature and the inputs, so this module provides replacements for both
to :mod:`erlport_bridge.dspy_patches`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from dspy.primitives.facade import SHIM_SETUP

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import build_signature, parse_signature
from erlport_bridge.programs.text import neutral

# DSPy's own names: the mark of a signature with instructions, and the tool by which the sandbox has a module built.
_SIGNATURE_MARKER: Final = "__dspy_sig__"
_CONSTRUCT_TOOL: Final = "__dspy_construct__"

_Restore = Callable[[Any, dict[str, Any]], Any]


def check_tools(tools: Mapping[str, Callable[..., Any]]) -> None:
    """Check that the tools which code in a sandbox may call are safe.

    Raises:
        OperationError: Of kind ``missing_dependency``: the code may have modules built, but the patches that secure
            them are not installed.
    """
    if _CONSTRUCT_TOOL in tools:
        for patch in ("sandbox_signature", "sandbox_inputs"):
            dspy_patches.require(patch, "modules that code in the sandbox builds")


def is_setup(code: str) -> bool:
    """Return whether code is what DSPy runs before the code that a model wrote; it takes 0.1 s of a new sandbox."""
    return bool(code == SHIM_SETUP)


def _checked_signature(signature: Any, custom_types: Mapping[str, type] | None = None) -> Any:
    """Replace DSPy's parser of signatures; types that the code defines (``custom_types``) are not supported."""
    instructions = None
    if isinstance(signature, dict) and signature.get(_SIGNATURE_MARKER):
        signature, instructions = signature.get("signature"), signature.get("instructions")
    if not isinstance(signature, str) or not isinstance(instructions, str | None):
        raise OperationError("signature", "expected a signature as text")
    return build_signature(parse_signature(signature, instructions=instructions))


def _neutral_inputs(restore: _Restore) -> _Restore:
    """Return a replacement of ``restore_custom_types`` that restores images and the like, and neutralizes all text."""

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
