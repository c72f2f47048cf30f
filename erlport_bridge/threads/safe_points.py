"""Find where an exception from outside may be raised in a function without leaving a lock or a resource behind.

CPython checks for such an exception after a call of a C function, at the start of a function, and at the end of a
loop's body. Three of these places are unsafe:

- between a call that takes something and the block that gives it back: ``lock.acquire()`` before its ``try``, and from
  Python 3.14 on the call of ``__enter__`` before its ``with`` block; earlier, the two were one instruction,
- within a context manager that is written in Python (``threading.Condition``), before or after its lock is taken,
- in code that briefly holds a lock of the whole process without a ``with`` (``logging``, the import system).

Nor is it safe anywhere in the code of a module that is being imported, or in what a function calls that takes a lock
without a ``try``: ``lock.acquire(); show(); lock.release()``, as the progress bars of tqdm do.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

_IMPORT_SYSTEM: Final = "importlib._bootstrap"
# Prefixes of modules: while a thread runs their code, no exception is raised. Functions that they call may get it.
_FRAGILE: Final = (
    *(_IMPORT_SYSTEM, "subprocess"),
    *("erlport_bridge.port.", "erlport_bridge.term.", "erlport_bridge.threads."),
    # A half-done count would stay wrong for ever.
    "erlport_bridge.counting.",
)
# Functions of `logging` that take a lock before the `try` that releases it; see also `protect_standard_library`.
_FRAGILE_IN_LOGGING: Final = frozenset(
    {"handle", "acquire", "release", "flush", "close", "isEnabledFor", "getLogger", "_acquireLock", "_releaseLock"}
)
# Functions that take or give back a lock or a resource, by their usual names. An exception in a finalizer is dropped by
# Python.
_TAKE_OR_GIVE_BACK: Final = frozenset(
    {
        *("__enter__", "__exit__", "__aenter__", "__aexit__", "__del__"),
        *("acquire", "release", "_release_save", "_acquire_restore"),
    }
)
_LOCK_BY_HAND: Final = frozenset({"acquire", "release"})
# Instructions that may stand between a call and the `try` that belongs to it: storing what the call has returned.
_STORING: Final = ("STORE_", "POP_TOP", "NOP", "NOT_TAKEN", "LOAD_CONST", "LOAD_FAST", "LOAD_SMALL_INT", "COPY", "SWAP")
_SKIPPED: Final = frozenset({"CACHE", "EXTENDED_ARG"})


class SafePoints(NamedTuple):
    """Places in the bytecode of one function, as offsets.

    Attributes:
        repeated: The first instruction of the function, and the last one of each loop's body.
        after_call: The instruction after each call, by the offset of the call; without the calls after which an
            exception is unsafe.
        unsafe_calls: The calls after which an exception is unsafe.
        unprotected: The places without a handler from ``acquire`` on, in a function with ``acquire`` and ``release``.
    """

    repeated: frozenset[int]
    after_call: dict[int, int]
    unsafe_calls: frozenset[int]
    unprotected: frozenset[int]


@functools.lru_cache(maxsize=512)
def safe_points(code: CodeType) -> SafePoints:
    """Return the places of a function where an exception from outside may be raised."""
    instructions = [each for each in dis.get_instructions(code) if each.opname not in _SKIPPED]
    handlers = _handlers(code)
    repeated: set[int] = set()
    after_call: dict[int, int] = {}
    unsafe: set[int] = set()
    has_begun = False
    for index, each in enumerate(instructions):
        if each.opname == "JUMP_BACKWARD":  # also as the last instruction of all, where the loop has no end
            repeated.add(each.offset)
            continue
        following = instructions[index + 1].offset if index + 1 < len(instructions) else each.offset
        if each.opname == "RESUME" and not has_begun:
            has_begun = True
            repeated.add(following)
        elif each.opname.startswith("CALL"):
            if _begins_block(instructions[index + 1 :], handlers, handlers.get(each.offset)):
                unsafe.add(each.offset)
            # An exception at the next instruction must be handled as one of the call. That is not so at the end of a
            # block: `with lock: return call()`.
            elif handlers.get(following) == handlers.get(each.offset):
                after_call[each.offset] = following
    unprotected = _unprotected(instructions, handlers) if _LOCK_BY_HAND.issubset(code.co_names) else frozenset()
    return SafePoints(frozenset(repeated), after_call, frozenset(unsafe), unprotected)


def _unprotected(instructions: list[dis.Instruction], handlers: dict[int, int]) -> frozenset[int]:
    # Python 3.10 has no table of handlers. There, one `try` is taken as protecting the whole function.
    if any(each.opname == "SETUP_FINALLY" for each in instructions):
        return frozenset()
    end = instructions[-1].offset + 2
    # There is none where the name stands in code that was optimized away.
    begin = min((each.offset for each in instructions if each.argval == "acquire"), default=end)
    return frozenset(range(begin, end, 2)).difference(handlers)


def _begins_block(following: list[dis.Instruction], handlers: dict[int, int], handler: int | None) -> bool:
    """Return whether the result of a call is stored, and then a ``try`` or ``with`` block begins."""
    for each in following:
        if each.opname == "SETUP_FINALLY":  # Python 3.10, which has no table of handlers
            return True
        if handlers.get(each.offset, handler) != handler:
            return True
        if not each.opname.startswith(_STORING):
            return False
    return False


def _handlers(code: CodeType) -> dict[int, int]:
    """Return the offset of the handler of each protected instruction."""
    entries: Any = getattr(dis.Bytecode(code), "exception_entries", ())  # from Python 3.11 on
    return {offset: each.target for each in entries for offset in range(each.start, each.end, 2)}


def is_fragile(frame: FrameType) -> bool:
    """Return whether an exception in this function could leave a lock of the whole process behind."""
    module = str(frame.f_globals.get("__name__"))
    return module.startswith(_FRAGILE) or (module == "logging" and frame.f_code.co_name in _FRAGILE_IN_LOGGING)


def takes_or_gives_back(frame: FrameType, outermost: CodeType) -> bool:
    """Return whether the function, or one that has called it, takes a resource or gives it back.

    Args:
        frame: The innermost function.
        outermost: The function at which to stop looking.
    """
    each: FrameType | None = frame
    while each is not None and each.f_code is not outermost:
        if each.f_code.co_name in _TAKE_OR_GIVE_BACK:
            return True
        each = each.f_back
    return False


def is_indivisible(frame: FrameType, outermost: CodeType) -> bool:
    """Return whether the function runs for an import, or while a caller holds a lock without a ``try``.

    An import that is broken off leaves modules half made for ever, and such a lock would never be given back.

    Args:
        frame: The innermost function.
        outermost: The function at which to stop looking.
    """
    each: FrameType | None = frame
    while each is not None and each.f_code is not outermost:
        if each.f_globals.get("__name__") == _IMPORT_SYSTEM or each.f_lasti in safe_points(each.f_code).unprotected:
            return True
        each = each.f_back
    return False


def after_call(frame: FrameType) -> int | None:
    """Return the offset after the call that the function is in, if it is in one and an exception is safe there."""
    return safe_points(frame.f_code).after_call.get(frame.f_lasti)
