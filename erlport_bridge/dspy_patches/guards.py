"""Compare DSPy with what a patch expects of it, by names and fingerprints."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

_HEX_DIGITS: Final = 12
# The file of the function that `contextlib.contextmanager` returns, whose source is one of Python.
_OF_CONTEXTLIB: Final = contextlib.contextmanager.__code__.co_filename
_HEADER: Final = ("@", "def ", "async def ")
_END_OF_HEADER: Final = (")", "]", "}")


class NotFoundError(LookupError):
    """DSPy has no such name; the message contains the name."""


class Place:
    """An attribute of a module or class of DSPy.

    Args:
        name: ``module:attribute`` or ``module:Class.attribute``. Alternatives for other versions of DSPy, separated by
            ``|``, are tried in turn.

    Raises:
        NotFoundError: DSPy has none of the names.
    """

    def __init__(self, name: str) -> None:
        for one in name.split(" | "):
            module, _, path = one.partition(":")
            *classes, self.attribute = path.split(".")
            try:
                owner: Any = importlib.import_module(module)
                for cls in classes:
                    owner = getattr(owner, cls)
            except (ImportError, AttributeError):
                continue
            if _has(owner, self.attribute):
                self.owner = owner
                return
        raise NotFoundError(f"DSPy has no {name}")

    def value(self) -> Any:
        """Return the value of the attribute.

        Raises:
            NotFoundError: The owner has no such attribute.
        """
        try:
            return getattr(self.owner, self.attribute)
        except AttributeError:
            raise NotFoundError(f"{self.owner.__name__} has no {self.attribute}") from None

    def set(self, value: Any) -> None:
        """Replace the value of the attribute."""
        setattr(self.owner, self.attribute, value)


def _has(owner: Any, attribute: str) -> bool:
    if not isinstance(owner, ModuleType):
        return hasattr(owner, attribute)
    # A module may create an attribute when it is read: `dspy.cache` must not be read here.
    return attribute in vars(owner) or "__getattr__" in vars(owner)


def fingerprint(value: object) -> str:
    """Return a text that identifies a value, equal in all versions of Python.

    Returns:
        For a function, a hash of its source with signature and decorators; so for the getter of a property, the
        function of a bound method, and the generator of a context manager. For a class or module, its name. For any
        other value, its ``repr``.

    Raises:
        OSError: The source of a function cannot be read.

    >>> fingerprint(dict)
    'class builtins.dict'
    >>> fingerprint([1])
    '[1]'
    """
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, FunctionType):
        is_made = value.__code__.co_filename == _OF_CONTEXTLIB
        function = value.__wrapped__ if is_made else value  # type: ignore[attr-defined]
        return hashlib.sha256(source_of(function).encode()).hexdigest()[:_HEX_DIGITS]
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    return repr(value)


def source_of(function: FunctionType) -> str:
    """Return the source of a function, found by indentation; ``inspect.getsource`` parses, which takes far longer.

    Raises:
        OSError: The source cannot be read.
    """
    lines = _lines(function.__code__.co_filename)
    first = function.__code__.co_firstlineno - 1
    if first >= len(lines):
        raise OSError(f"the source of {function.__qualname__} is not in its file")
    indentation = _indentation(lines[first])
    taken = []
    in_header = True
    for line in lines[first:]:
        text = line.strip()
        if text and _indentation(line) <= indentation and not text.startswith(_END_OF_HEADER):
            if not (in_header and text.startswith(_HEADER)):
                break
            in_header = text.startswith("@")
        taken.append(line.rstrip())
    return "\n".join(taken).rstrip()


# The table lists names of one file together, so two files are enough. The cache stays in memory for good.
@functools.lru_cache(maxsize=2)
def _lines(file: str) -> list[str]:
    return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def difference(expected: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return the first difference between DSPy and what is expected of it, as a sentence; ``None`` if all is equal.

    Args:
        expected: The accepted fingerprints of each name.
    """
    for name, accepted in expected.items():
        try:
            found = fingerprint(Place(name).value())
        except NotFoundError as error:
            return str(error)
        except OSError:
            return f"the source of {name} cannot be read"
        if found not in accepted:
            return f"{name} is not the one that is known here (its fingerprint is {found})"
    return None


def has_private_name(place: str, name: str) -> bool:
    """Return whether DSPy has a private name at a place.

    Args:
        place: ``module:attribute``, or ``module:Class`` if functions of the class use the name on their objects.
        name: The name of the attribute.
    """
    try:
        found = Place(place).value()
    except NotFoundError:
        return False
    if not isinstance(found, type) or found.__name__ == name:
        return True
    functions = [item for cls in found.__mro__ for item in vars(cls).values() if isinstance(item, FunctionType)]
    return hasattr(found, name) or any(name in function.__code__.co_names for function in functions)
