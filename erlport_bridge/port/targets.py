"""Look up the functions that can be called over a port, and cache them by name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any, Final

from erlport_bridge.errors import ProtocolError, UnknownOperationError

# A function that has returned within _QUICK_S for QUICK_CALLS calls in a row is quick. A call that takes longer than
# NOT_QUICK_S resets the count.
_QUICK_S: Final = 0.0002
QUICK_CALLS: Final = 3
NOT_QUICK_S: Final = 0.001


class Target:
    """A function that is called over the port.

    Attributes:
        name: The names of its module and of the function, as the other side calls them.
        module: The module that it was found in.
        function: The function.
        is_coroutine: Whether it is a coroutine function, which runs on the event loop.
        is_harmless: Whether its attribute ``is_harmless`` declares it non-blocking, so that the event loop's thread may
            run it too.
        quick_calls: How many calls in a row have returned at once.
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
        """Return whether the leader may run the function itself: a hand-over between threads would take longer."""
        return self.quick_calls >= QUICK_CALLS

    def note_duration(self, taken_s: float) -> None:
        """Record how long a call has run, in seconds."""
        if taken_s < _QUICK_S:
            self.quick_calls += 1
        elif taken_s > NOT_QUICK_S:
            self.quick_calls = 0


class Targets:
    """The functions that may be called on one port.

    Args:
        allowed: The modules whose functions may be called; ``None`` allows every module, as ErlPort does.
    """

    def __init__(self, allowed: Collection[str] | None) -> None:
        self._allowed = None if allowed is None else frozenset(allowed)
        self._imported: set[str] = set()
        self._found: dict[tuple[str, str], Target] = {}

    def is_imported(self, module_name: str) -> bool:
        """Return whether the module is imported already, so that :meth:`find` is quick."""
        if module_name in self._imported:
            return True
        module = sys.modules.get(module_name)
        # The check by which Python itself finds out whether another thread is importing the module now.
        return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)

    def known(self, module_name: str, function_name: str) -> Target | None:
        """Return a function that was found before, or ``None`` if its module or the function has been replaced."""
        target = self._found.get((module_name, function_name))
        if target is None or sys.modules.get(module_name) is not target.module:
            return None
        try:
            # A name with a dot is no attribute of the module, so `find` looks it up each time.
            return target if getattr(target.module, function_name, None) is target.function else None
        except Exception:  # noqa: BLE001 - the module's `__getattr__` raised: `find` raises it again, for the caller
            return None

    def find(self, module_name: str, function_name: str) -> Target:
        """Return a function, and import its module, which may take seconds.

        Raises:
            ProtocolError: The module may not be called, or does not offer the function.
            Exception: Whatever the import raises, or the module has no such function.
        """
        if self._allowed is not None and module_name not in self._allowed:
            raise ProtocolError(
                f'module "{module_name}" may not be called on this port; allowed: {", ".join(sorted(self._allowed))}'
            )
        # import_module waits for an import that another thread has begun; a lookup in sys.modules would not.
        module = importlib.import_module(module_name)
        self._imported.add(module_name)
        # A module with a list of operations offers nothing else: a function that it imports is no operation.
        offered = getattr(module, "OPERATIONS", None)
        if offered is not None and function_name not in offered:
            near = difflib.get_close_matches(function_name, offered, n=1)
            meant = f' (did you mean "{near[0]}"?)' if near else ""
            raise UnknownOperationError(
                f'{module_name} has no operation "{function_name}"{meant}; it has {", ".join(sorted(offered))}'
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
        # A method is a new object at each lookup, but an equal one.
        if known is not None and known.module is module and known.function == function:
            return known
        target = self._found[module_name, function_name] = Target((module_name, function_name), module, function)
        return target
