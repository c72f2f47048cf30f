"""Runs once in a sandbox: makes what code submits, returns, raises or passes to tools fit into JSON.

The runner assumes that it does. What cannot be submitted or passed is an error of the code, which says where it is.
"""


def _set_up() -> None:
    import builtins
    import datetime
    import decimal
    import inspect
    import json
    import math
    import sys
    from typing import Any

    import pyodide.code
    from pyodide.ffi import JsProxy, jsnull

    max_depth = 90
    max_integer = 2**53  # the runner reads numbers as JavaScript does
    max_shown = 1000
    max_path = 60

    class Values:
        """Makes plain values of JSON; ``refused`` begins the error of another value, ``verb`` what to do instead."""

        def __init__(self, refused: str, verb: str) -> None:
            self.refused = refused
            self.verb = verb

        def deep(self, path: str) -> str:
            return f"{self.refused} a value of more than {max_depth} levels at {path}"

        def other(self, kind: str, path: str, remedy: str, value: Any) -> Any:
            raise ValueError(f"{self.refused} {kind} at {path}{remedy}")

        def plain(self, value: Any, path: str, depth: int = 0) -> Any:
            if value is None or isinstance(value, (bool, str)):
                return value
            as_text = f"; {self.verb} it as text"
            if isinstance(value, int):
                if abs(value) > max_integer:
                    return self.other("an integer beyond 2**53", path, as_text, value)
                return value
            if isinstance(value, float):
                return value if math.isfinite(value) else self.other(f"{value}", path, as_text, value)
            if isinstance(value, (datetime.date, datetime.time)):
                return value.isoformat()
            if isinstance(value, decimal.Decimal):
                return str(value)
            if depth > max_depth:
                raise ValueError(self.deep(path if len(path) <= max_path else f"{path[:max_path]}…"))
            if isinstance(value, (set, frozenset)):
                try:
                    value = sorted(value)
                except TypeError:
                    value = sorted(value, key=repr)
            if isinstance(value, (list, tuple, range)):
                return [self.plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
            if isinstance(value, dict):
                items = {
                    self.key_text(key, path): self.plain(item, f"{path}[{key!r:.50}]", depth + 1)
                    for key, item in value.items()
                }
                if len(items) < len(value):
                    return self.other("a dict whose keys are the same text", path, "", value)
                return items
            remedy = f"; {self.verb} text, numbers, lists and dicts"
            return self.other(f"a value of type {type(value).__name__}", path, remedy, value)

        def key_text(self, key: Any, path: str) -> str:
            if isinstance(key, str):
                return key
            if key is None or isinstance(key, (bool, int, float)):
                return json.dumps(key)
            return str(self.other(f"a dict with a key of type {type(key).__name__}", path, "; use text as keys", key))

    class ShownValues(Values):
        """Makes text of what is no value of JSON, for the model to read."""

        def deep(self, path: str) -> str:
            return f"the value of the last expression has more than {max_depth} levels at {path}; print a part of it"

        def other(self, kind: str, path: str, remedy: str, value: Any) -> Any:
            return shown(value)

    def is_deep(value: Any) -> bool:
        """Return whether a value has more than ``max_depth`` levels; Python's own recursion could end the sandbox."""
        level = [value]
        # What is submitted has two levels more, as the arguments of an exception.
        for _ in range(max_depth + 4):
            inner: dict[int, Any] = {}
            for item in level:
                if isinstance(item, (list, tuple, set, frozenset, dict)):
                    for one in item.values() if isinstance(item, dict) else item:
                        inner[id(one)] = one
            if not inner:
                return False
            level = list(inner.values())
        return True

    submitted_values = Values("cannot submit", "submit")
    shown_values = ShownValues("cannot show", "print")

    def submitted(self: BaseException, fields: dict[str, Any]) -> None:
        BaseException.__init__(self, {name: submitted_values.plain(value, name) for name, value in fields.items()})

    def last_exception_args() -> str:
        raised = getattr(sys, "last_exc", None)
        if raised is None:  # the runner could not read the result of the code
            return "[]"
        try:
            return plain_dumps(raised.args, allow_nan=False)
        except Exception:  # noqa: BLE001 - an error here would end the sandbox
            return plain_dumps([shown(value) for value in raised.args])

    def make_shallow(raised: BaseException) -> None:
        """Replace deep arguments of an exception and of those behind it, before Python makes text of them."""
        seen: dict[int, BaseException] = {}
        waiting: list[BaseException | None] = [raised]
        while waiting:
            error = waiting.pop()
            if error is None or id(error) in seen:
                continue
            seen[id(error)] = error
            if is_deep(error.args):
                error.args = tuple(shown(value) if is_deep(value) else value for value in error.args)
            waiting += [error.__cause__, error.__context__]

    def shown(value: Any) -> str:
        if is_deep(value):
            return f"{type(value).__name__} of more than {max_depth} levels"
        try:
            return value if isinstance(value, str) else repr(value)[:max_shown]
        except Exception:  # noqa: BLE001 - a class of the code has this repr
            return type(value).__name__

    build_class = builtins.__build_class__

    def with_plain_values(function: Any, name: str, /, *bases: Any, **options: Any) -> Any:
        built = build_class(function, name, *bases, **options)
        # The runner defines both names before each piece of code, the class last.
        if name == "_DSPyFinalOutput" and function.__globals__ is main:
            built.__init__ = submitted
            main["last_exception_args"] = last_exception_args
            vars(sys)["last_exc"] = None  # that of earlier code
        return built

    evaluate = pyodide.code.eval_code_async

    async def evaluated(*args: Any, **options: Any) -> Any:
        """Run code, as the runner does, and return the value of its last expression as one of JSON."""
        try:
            value = await evaluate(*args, **options)
            while inspect.isawaitable(value):  # as the runner would
                value = await value
        except BaseException as error:
            make_shallow(error)
            raise
        if value is None or isinstance(value, JsProxy):
            return value
        return with_null(shown_values.plain(value, "value"))

    def with_null(value: Any) -> Any:
        """Return a value in which None stays null; the runner would leave it out of a dict."""
        if isinstance(value, list):
            return [with_null(item) for item in value]
        if isinstance(value, dict):
            return {key: with_null(item) for key, item in value.items()}
        return jsnull if value is None else value

    plain_dumps = json.dumps

    def dumps(value: Any, *args: Any, **options: Any) -> str:
        """Encode a value; if the runner's function for a tool calls this, the arguments of the tool."""
        caller = sys._getframe(1)
        if caller.f_globals is main and "_js_tool_call" in caller.f_code.co_names and set(value) == {"kwargs"}:
            given = Values(f"cannot call {caller.f_code.co_name} with", "pass")
            value = {"kwargs": {name: given.plain(item, name) for name, item in value["kwargs"].items()}}
        return plain_dumps(value, *args, **options)

    main = globals()
    builtins.__build_class__ = with_plain_values
    vars(pyodide.code)["eval_code_async"] = evaluated
    vars(json)["dumps"] = dumps


_set_up()
del _set_up
