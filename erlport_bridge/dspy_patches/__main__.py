"""Print which patches and private names fit the installed DSPy: ``python -m erlport_bridge.dspy_patches``.

The exit status is 1 if one of them does not fit.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

import dspy

from erlport_bridge.dspy_patches.guards import difference, has_private_name
from erlport_bridge.dspy_patches.private_names import PRIVATE_NAMES, QUICK_MODULES
from erlport_bridge.dspy_patches.table import PATCHES


def differences() -> Iterator[tuple[str, str | None]]:
    """Yield the name of each row of the tables, with a description of what does not fit; ``None`` if it fits."""
    for patch in PATCHES:
        problem = difference(patch.expects)
        yield f"patch {patch.name}", problem and f"{problem}; without it, {patch.without}"
    for private in PRIVATE_NAMES:
        fits = has_private_name(private.place, private.name)
        yield f"name {private.name}", None if fits else f"not at {private.place}; used in {', '.join(private.used_in)}"
    for module in QUICK_MODULES:
        yield f"module {module}", None if importlib.util.find_spec(module) else "DSPy has no such module"


def main() -> int:
    """Print a line for each row; return the exit status."""
    rows = list(differences())
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {problem or 'fits'}" for name, problem in rows]
    failed = sum(problem is not None for _, problem in rows)
    lines.append(f"DSPy {dspy.__version__}: {len(rows) - failed} of {len(rows)} fit")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
