"""The functions that can be called over a port, found by name once and remembered."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any, Final

from erlport_bridge.errors import ProtocolError

# A function that has returned within this time so often in turn is quick; one call that takes longer than the second
# time, and it must prove itself anew.
_QUICK_S: Final = 0.0002
QUICK_CALLS: Final = 3
NOT_QUICK_S: Final = 0.001


class Target:
    """A function that is called over the port.

    Attributes:
        name: Its module and its own name, as the other side calls them.
        is_coroutine: It runs on the event loop.
        is_harmless: It says of itself, by an attribute ``is_harmless``, that it waits for nothing and nobody: the event
            loop may run it too.
        quick_calls: How often in turn it has returned at once.
    """

    __slots__ = ("function", "is_coroutine", "is_harmless", "module", "name", "quick_calls")

    def __init__(self, name: tuple[str, str], module: ModuleType, function: Callable[..., Any]) -> None:
        self.name = name
        self.module = module
        self.function = function
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.is_harmless = getattr(function, "is_harmless", False) is True
        self.quick_calls = 0

    def is_quick(self) -> bool:
        """Tell whether it may run where its call was read: a hand-over between threads takes longer than it does."""
        return self.quick_calls >= QUICK_CALLS

    def note_duration(self, taken_s: float) -> None:
        """Take note of how long a call has run."""
        if taken_s < _QUICK_S:
            self.quick_calls += 1
        elif taken_s > NOT_QUICK_S:
            self.quick_calls = 0


class Targets:
    """What may be called on one port.

    Args:
        allowed: The modules whose functions may be called; ``None`` allows every module, as ErlPort does.
    """

    def __init__(self, allowed: Collection[str] | None) -> None:
        self._allowed = None if allowed is None else frozenset(allowed)
        self._imported: set[str] = set()
        self._found: dict[tuple[str, str], Target] = {}

    def is_imported(self, module_name: str) -> bool:
        """Tell whether :meth:`find` has nothing to import, so that it takes no time."""
        if module_name in self._imported:
            return True
        module = sys.modules.get(module_name)
        # As Python itself finds out whether another thread is just importing it.
        return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)

    def known(self, module_name: str, function_name: str) -> Target | None:
        """Give a function that has been found before, unless its module is another now or has another of its name."""
        target = self._found.get((module_name, function_name))
        if target is None or sys.modules.get(module_name) is not target.module:
            return None
        try:
            # A name with a dot is not an attribute of the module, and is found anew each time.
            return target if getattr(target.module, function_name, None) is target.function else None
        except Exception:  # noqa: BLE001 - of the module's own `__getattr__`: whoever finds it anew tells the caller
            return None

    def find(self, module_name: str, function_name: str) -> Target:
        """Find a function; imports its module, which may take seconds.

        Raises:
            ProtocolError: The module may not be called, or does not offer the function.
            Exception: Whatever the import raises; there is no such function.
        """
        if self._allowed is not None and module_name not in self._allowed:
            raise ProtocolError(
                f'module "{module_name}" may not be called on this port; allowed: {", ".join(sorted(self._allowed))}'
            )
        # Waits for an import that another thread has begun, which a look into sys.modules would not.
        module = importlib.import_module(module_name)
        self._imported.add(module_name)
        # A module that lists what it offers offers nothing else: what it imports is not an operation.
        offered = getattr(module, "OPERATIONS", None)
        if offered is not None and function_name not in offered:
            raise ProtocolError(
                f'{module_name} has no operation "{function_name}"; it has {", ".join(sorted(offered))}'
            )
        found: Any = module
        # Like ErlPort: 'Class.method' is a path.
        for name in function_name.split("."):
            found = getattr(found, name)
        if not callable(found):
            raise TypeError(f"{module_name}.{function_name} is not a function")
        return self._remembered(module_name, function_name, module, found)

    def _remembered(
        self, module_name: str, function_name: str, module: ModuleType, function: Callable[..., Any]
    ) -> Target:
        known = self._found.get((module_name, function_name))
        # A method looked up anew is another object, but equal.
        if known is not None and known.module is module and known.function == function:
            return known
        target = self._found[module_name, function_name] = Target((module_name, function_name), module, function)
        return target
