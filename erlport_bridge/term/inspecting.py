"""Write terms for error messages as IEx would, because the reader of an error sent them from Elixir."""

from __future__ import annotations

import itertools
import json
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["path_text", "shown", "shown_key"]


_MAX_PATH_STEPS: Final = 20


def shown(term: object) -> str:
    """Return a term as one short line, whatever its size and class; never raise.

    >>> shown({"tags": [None, True, ("a", 2.5)]})
    '%{"tags" => [nil, true, {"a", 2.5}]}'
    """
    return _INSPECT.repr(term)


def shown_key(key: object) -> str:
    """Return the key of a map as it is written in a path: a text always in double quotes."""
    text = shown(key)
    return f'"{text[1:-1]}"' if type(key) is str and text.startswith("'") and '"' not in text else text


def path_text(steps: list[str]) -> str:
    """Return the path to a value inside a term, such as ``["answer"][3]``; the middle of a long path is left out."""
    if len(steps) > _MAX_PATH_STEPS:
        steps = [*steps[: _MAX_PATH_STEPS // 2], " … ", *steps[-_MAX_PATH_STEPS // 2 :]]
    return "".join(steps)


class _Inspect(reprlib.Repr):
    # reprlib finds a method by the name of the type, hence the methods' names.

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 3
        self.maxlist = 4

    def repr_NoneType(self, x: None, level: int) -> str:  # noqa: N802
        return "nil"

    def repr_bool(self, x: bool, level: int) -> str:
        return str(x).lower()

    def repr_str(self, x: str, level: int) -> str:
        text = json.dumps(x if len(x) <= self.maxstring else x[: self.maxstring] + "…", ensure_ascii=False)
        # An error with a lone surrogate could not be sent.
        return text.encode("utf-8", "backslashreplace").decode()

    def repr_Atom(self, x: str, level: int) -> str:  # noqa: N802
        return f":{x}" if x.isidentifier() else f":{self.repr_str(x, level)}"

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4,300 digits in decimal.
        return super().repr_int(x, level) if x.bit_length() <= 256 else f"an integer of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        listed = ", ".join(map(str, x[: self.maxlist]))
        return f"<<{listed}>>" if len(x) <= self.maxlist else f"a binary of {len(x)} bytes"

    def repr_list(self, x: Iterable[object], level: int) -> str:
        return f"[{self._items(map(self._within(level), x))}]"

    def repr_tuple(self, x: tuple[object, ...], level: int) -> str:
        return f"{{{self._items(map(self._within(level), x))}}}"

    def repr_dict(self, x: dict[object, object], level: int) -> str:
        return f"%{{{self._items(self._pair(key, value, level) for key, value in x.items())}}}"

    def repr_ImproperList(self, x: Any, level: int) -> str:  # noqa: N802
        write = self._within(level)
        return f"[{self._items(map(write, x.items))} | {write(x.tail)}]"

    repr_FrozenList = repr_list  # noqa: N815
    repr_FrozenMap = repr_dict  # noqa: N815

    def repr_OtpErlangPid(self, x: object, level: int) -> str:  # noqa: N802
        return "a pid"

    def repr_OtpErlangPort(self, x: object, level: int) -> str:  # noqa: N802
        return "a port"

    def repr_OtpErlangReference(self, x: object, level: int) -> str:  # noqa: N802
        return "a reference"

    def repr_OtpErlangFunction(self, x: object, level: int) -> str:  # noqa: N802
        return "a function"

    def repr_OtpErlangBinary(self, x: object, level: int) -> str:  # noqa: N802
        return "a bitstring"

    def repr_instance(self, x: object, level: int) -> str:
        try:
            text = repr(x)
        except Exception:  # noqa: BLE001 - x may be of any class, and the text is part of another error's message
            return f"a {type(x).__name__}"
        return text if len(text) <= self.maxother else f"{text[: self.maxother]}…"

    def _pair(self, key: object, value: object, level: int) -> str:
        write = self._within(level)
        if type(key).__name__ == "Atom" and str(key).isidentifier():
            return f"{key}: {write(value)}"
        return f"{write(key)} => {write(value)}"

    def _within(self, level: int) -> Callable[[object], str]:
        return lambda item: self.repr1(item, level - 1) if level > 0 else "…"

    def _items(self, written: Iterable[str]) -> str:
        first = list(itertools.islice(written, self.maxlist + 1))
        return ", ".join(first if len(first) <= self.maxlist else [*first[: self.maxlist], "…"])


_INSPECT: Final = _Inspect()
