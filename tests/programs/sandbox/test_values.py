"""Values that code submits or raises, in the real sandbox: each arrives, or is an error that the model is shown.

DSPy's runner assumes that all of them fit into JSON; a set, NaN or an object ended the sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from erlport_bridge.programs.sandbox import sandboxes as sandbox
from erlport_bridge.programs.sandbox.interpreter import Interpreter
from tests.programs.sandbox.test_bounds import MODULES, run

# DSPy warns that CodeAct will be removed.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.usefixtures("prepared")]

NESTED = "x = []\nfor _ in range({}): x = [x]\n"

SUBMITTED: dict[str, tuple[str, Any]] = {
    "set": ("SUBMIT({3, 1, 2})", [1, 2, 3]),
    "mixed set": ("SUBMIT(frozenset(['b', 1]))", ["b", 1]),
    "sets within": ("SUBMIT({'a': [{1}]})", {"a": [[1]]}),
    "tuple": ("SUBMIT((1, (2,)))", [1, [2]]),
    "range": ("SUBMIT(range(3))", [0, 1, 2]),
    "date": ("import datetime\nSUBMIT(datetime.date(2020, 1, 2))", "2020-01-02"),
    "decimal": ("import decimal\nSUBMIT(decimal.Decimal('1.50'))", "1.50"),
    "keys": ("SUBMIT({1: 'a', None: 'b', True: 'c', 'd': 0})", {"1": "c", "null": "b", "d": 0}),
    "plain": ("SUBMIT([None, True, 1.5, 'é', {}])", [None, True, 1.5, "é", {}]),
    "largest integer": ("SUBMIT(2**53)", 2**53),
}

# Places, shortened.
OUTPUT, ONE, VALUE = (f"{(name + '[0]' * 20)[:60]}…" for name in ("output", "x", "value"))

#: What the last expression of code gives, and what is shown of it.
LAST: dict[str, tuple[str, Any]] = {
    "deepest": (NESTED.format(90) + "x", json.loads("[" * 91 + "]" * 91)),
    "set": ("{3, 1, 2}", [1, 2, 3]),
    "tuple": ("(1, (2,))", [1, [2]]),
    "map": ("{'a': [{'b': None}]}", {"a": [{"b": None}]}),
    "keys": ("{1: 2, (3, 4): 5}", {"1": 2, "(3, 4)": 5}),
    "date": ("import datetime\ndatetime.date(2020, 1, 2)", "2020-01-02"),
    "bytes": ("b'ab'", "b'ab'"),
    "nan": ("[float('nan')]", ["nan"]),
    "large integer": ("10**30", str(10**30)),
    "object": ("class A:\n    def __repr__(self): return 'an A'\nA()", "an A"),
    "awaitable": ("async def f(): return {1}\nf()", [1]),
    "nothing": ("print('printed')\nNone", "printed\n"),
}

#: What a tool is called with, and what it gets.
PASSED: dict[str, tuple[str, Any]] = {
    "set": ("{2, 1}", [1, 2]),
    "date": ("__import__('datetime').date(2020, 1, 2)", "2020-01-02"),
    "map": ("{'a': [{1: (2,)}]}", {"a": [{"1": [2]}]}),
}

REFUSED = {
    "SUBMIT(float('nan'))": "cannot submit nan at output; submit it as text",
    "SUBMIT([0, float('-inf')])": "cannot submit -inf at output[1]; submit it as text",
    "SUBMIT(10**5000)": "cannot submit an integer beyond 2**53 at output; submit it as text",
    "SUBMIT({'n': 2**53 + 1})": "cannot submit an integer beyond 2**53 at output['n']; submit it as text",
    "SUBMIT(b'ab')": "cannot submit a value of type bytes at output; submit text, numbers, lists and dicts",
    "class A: pass\nSUBMIT(A())": "cannot submit a value of type A at output; submit text, numbers, lists and dicts",
    "SUBMIT({(1, 2): 3})": "cannot submit a dict with a key of type tuple at output; use text as keys",
    "SUBMIT({1: 2, '1': 3})": "cannot submit a dict whose keys are the same text at output",
    NESTED.format(91) + "SUBMIT(x)": f"cannot submit a value of more than 90 levels at {OUTPUT}",
    NESTED.format(150) + "SUBMIT(x)": f"cannot submit a value of more than 90 levels at {OUTPUT}",
    NESTED.format(1_000) + "SUBMIT(x)": f"cannot submit a value of more than 90 levels at {OUTPUT}",
    "x = []\nx.append(x)\nSUBMIT(x)": f"cannot submit a value of more than 90 levels at {OUTPUT}",
    **{
        code + "x": f"the value of the last expression has more than 90 levels at {VALUE}; print a part of it"
        for code in (NESTED.format(91), NESTED.format(150), NESTED.format(1_000), "x = []\nx.append(x)\n")
    },
    "x = {}\nfor _ in range(150): x = {'a': x}\nx": "the value of the last expression has more than 90 levels at "
    "value['a']['a']['a']['a']['a']['a']['a']['a']['a']['a']['a']…; print a part of it",
    **{
        code + "tool(x)": f"cannot call tool with a value of more than 90 levels at {ONE}"
        for code in (NESTED.format(91), NESTED.format(150), NESTED.format(1_000), "x = []\nx.append(x)\n")
    },
    "tool(float('nan'))": "cannot call tool with nan at x; pass it as text",
    "tool([2**53 + 1])": "cannot call tool with an integer beyond 2**53 at x[0]; pass it as text",
    "tool(b'ab')": "cannot call tool with a value of type bytes at x; pass text, numbers, lists and dicts",
    "tool({(1, 2): 3})": "cannot call tool with a dict with a key of type tuple at x; use text as keys",
}

RAISED = {
    "raise ValueError({1})": "ValueError: ['{1}']",
    "raise KeyError(float('nan'))": "KeyError: ['nan']",
    "raise LookupError('x', b'y')": "LookupError: ['x', \"b'y'\"]",
    "b'\\xff'.decode()": "UnicodeDecodeError: ['utf-8', \"b'\\\\xff'\", '0', '1', 'invalid start byte']",
    "class A:\n    def __repr__(self): raise OSError\nraise ValueError(A())": "ValueError: ['A']",
    NESTED.format(150) + "raise ValueError('a', x)": "ValueError: ['a', 'list of more than 90 levels']",
    NESTED.format(1_000) + "raise ValueError(x)": "ValueError: ['list of more than 90 levels']",
    NESTED.format(150)
    + "try:\n    raise ValueError(x)\nexcept ValueError as error:\n    raise KeyError('b') from error": (
        "KeyError: ['b']"
    ),
    "1 / 0": "ZeroDivisionError: ['division by zero']",
}


@pytest.fixture(scope="module")
def interpreter(prepared: None) -> Iterator[Interpreter]:
    """Yield one sandbox for all cases: none of them ends it."""
    started = Interpreter.started()
    started.offer({"tool": lambda x: x}, None)
    yield started
    started.shutdown()


@pytest.mark.parametrize("case", SUBMITTED)
def test_submitted_value_arrives(interpreter: Interpreter, case: str) -> None:
    code, expected = SUBMITTED[case]
    assert interpreter.execute(code).output == {"output": expected}


@pytest.mark.parametrize("case", LAST)
def test_value_of_the_last_expression_is_shown(interpreter: Interpreter, case: str) -> None:
    """Sets and objects were empty maps, NaN was null, and integers beyond 2**53 an error of JavaScript."""
    code, expected = LAST[case]
    assert interpreter.execute(code) == expected


@pytest.mark.parametrize("case", PASSED)
def test_argument_of_a_tool_arrives(interpreter: Interpreter, case: str) -> None:
    code, expected = PASSED[case]
    assert interpreter.execute(f"SUBMIT(tool({code}))").output == {"output": expected}


@pytest.mark.parametrize("code", REFUSED)
def test_value_that_is_no_json_is_an_error_of_the_code(interpreter: Interpreter, code: str) -> None:
    with pytest.raises(dspy.CodeExecutionError) as caught:
        interpreter.execute(code)
    assert str(caught.value) == f"ValueError: {[REFUSED[code]]}"
    assert interpreter.execute("print('alive')").strip() == "alive"


@pytest.mark.parametrize("code", RAISED)
def test_exception_with_any_arguments_is_an_error_of_the_code(interpreter: Interpreter, code: str) -> None:
    with pytest.raises(dspy.CodeExecutionError) as caught:
        interpreter.execute(code)
    assert str(caught.value) == RAISED[code]


@pytest.mark.parametrize(
    "end",
    ["SUBMIT(x)", *(pytest.param(end, marks=pytest.mark.long) for end in ("x", "tool(x)", "raise ValueError(x)"))],
)
def test_value_of_any_depth_ends_no_sandbox(prepared: None, end: str) -> None:
    """In a sandbox of its own: Pyodide itself fails when a list of so many levels is freed."""
    own = Interpreter.started()
    try:
        own.offer({"tool": lambda x: x}, None)
        with pytest.raises(dspy.CodeExecutionError, match="more than 90 levels"):
            own.execute(NESTED.format(100_000) + end)
        assert own.execute("print('alive')").strip() == "alive"
    finally:
        own.shutdown()


def test_outputs_of_a_signature_are_submitted_by_name(interpreter: Interpreter) -> None:
    interpreter.offer({}, [{"name": "words", "type": "list"}, {"name": "n", "type": "int"}])
    assert interpreter.execute("SUBMIT({'b', 'a'}, n=2)").output == {"words": ["a", "b"], "n": 2}
    with pytest.raises(dspy.CodeExecutionError, match="cannot submit nan at n; submit it as text"):
        interpreter.execute("SUBMIT([], float('nan'))")
    interpreter.offer({}, None)


def test_tool_returns_a_set_as_a_sorted_list(interpreter: Interpreter) -> None:
    interpreter.offer({"words": lambda: {"b", "a", "c"}}, None)
    assert interpreter.execute("print(words())").strip() == "['a', 'b', 'c']"


# The code of Flex submits nothing: its method returns.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "ProgramOfThought" else pytest.mark.long)
        for name in MODULES
        if name != "Flex"
    ],
)
def test_set_submitted_in_each_module_ends_no_sandbox(sandboxes: sandbox.Sandboxes, name: str) -> None:
    assert run(name, "SUBMIT({2, 1})", sandboxes).answer in ("done", "[1, 2]")
