"""Install the patches of the table that fit the installed DSPy, and report the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import dspy

from erlport_bridge.dspy_patches.guards import Place, difference
from erlport_bridge.dspy_patches.patch import PROVIDED, Make, Patch
from erlport_bridge.dspy_patches.table import PATCHES
from erlport_bridge.errors import OperationError

_log = logging.getLogger(__name__)


class Seam:
    """The patches of this process: which are installed, and which are left out and why.

    Args:
        patches: The table.

    Attributes:
        patches: The patches of the table, by name.
        originals: DSPy's values at the targets of each installed patch; ``None`` for a target that is not read.
        reasons: For each patch that is left out, the reason.
    """

    def __init__(self, patches: tuple[Patch, ...]) -> None:
        self.patches = {patch.name: patch for patch in patches}
        self.originals: dict[str, dict[str, Any]] = {}
        self.reasons: dict[str, str] = {}

    def install(self) -> None:
        """Install every patch whose replacements are in the table; installed patches are not installed again."""
        for patch in self.patches.values():
            if PROVIDED not in patch.targets.values():
                self._install(patch, {})

    def provide(self, name: str, make: Make | Mapping[str, Make]) -> None:
        """Install a patch whose replacement belongs to a package above this one.

        Args:
            name: The name of the patch.
            make: Returns the replacement, given DSPy's value; or such a function for each target.
        """
        patch = self.patches[name]
        self._install(patch, make if isinstance(make, Mapping) else dict.fromkeys(patch.targets, make))

    def left_out(self) -> list[str]:
        """Return a line for each patch that does not fit the installed DSPy."""
        return [f"{name}: {reason}; {self.patches[name].without}" for name, reason in self.reasons.items()]

    def require(self, name: str, feature: str) -> None:
        """Raise an error for a feature that is unsafe or wrong without a patch, if the patch is not installed.

        Args:
            name: The name of the patch.
            feature: The feature that needs it, as the subject of a sentence in the plural.

        Raises:
            OperationError: Of kind ``missing_dependency``: the patch is left out, or not yet installed.
        """
        if name not in self.originals:
            reason = self.reasons.get(name, "it is not installed")
            message = f"{feature} are refused: the patch {name} does not fit DSPy {dspy.__version__}: {reason}"
            raise OperationError("missing_dependency", message)

    def _install(self, patch: Patch, provided: Mapping[str, Make]) -> None:
        if patch.name in self.originals or patch.name in self.reasons:
            return
        reason = difference(patch.expects)
        if reason is not None:
            self.reasons[patch.name] = reason
            _log.warning("DSPy %s: left out the patch %s: %s; %s", dspy.__version__, patch.name, reason, patch.without)
            return
        originals = {}
        for target, given in patch.targets.items():
            make = given or provided[target]
            place = Place(target)
            originals[target] = place.value() if target in patch.expects else None
            place.set(make(originals[target]))
        self.originals[patch.name] = originals


seam: Final = Seam(PATCHES)
install = seam.install
provide = seam.provide
left_out = seam.left_out
require = seam.require
