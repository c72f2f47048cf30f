"""Values that code submits or raises, in the real sandbox: each arrives, or is an error that the model is shown.

DSPy's runner assumes that all of them fit into JSON; a set, NaN or an object ended the sandbox.
"""

from __future__ import annotations

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

REFUSED = {
    "SUBMIT(float('nan'))": "cannot submit nan at output; submit it as text",
    "SUBMIT([0, float('-inf')])": "cannot submit -inf at output[1]; submit it as text",
    "SUBMIT(10**5000)": "cannot submit an integer beyond 2**53 at output; submit it as text",
    "SUBMIT({'n': 2**53 + 1})": "cannot submit an integer beyond 2**53 at output['n']; submit it as text",
    "SUBMIT(b'ab')": "cannot submit a value of type bytes at output; submit text, numbers, lists and dicts",
    "class A: pass\nSUBMIT(A())": "cannot submit a value of type A at output; submit text, numbers, lists and dicts",
    "SUBMIT({(1, 2): 3})": "cannot submit a dict with a key of type tuple at output; use text as keys",
    "SUBMIT({1: 2, '1': 3})": "cannot submit a dict whose keys are the same text at output",
    NESTED.format(150) + "SUBMIT(x)": "cannot submit a value of more than 90 levels",
    NESTED.format(100_000) + "SUBMIT(x)": "cannot submit a value of more than 90 levels",
    "x = []\nx.append(x)\nSUBMIT(x)": "cannot submit a value of more than 90 levels",
}

RAISED = {
    "raise ValueError({1})": "ValueError: ['{1}']",
    "raise KeyError(float('nan'))": "KeyError: ['nan']",
    "raise LookupError('x', b'y')": "LookupError: ['x', \"b'y'\"]",
    "b'\\xff'.decode()": "UnicodeDecodeError: ['utf-8', \"b'\\\\xff'\", '0', '1', 'invalid start byte']",
    "class A:\n    def __repr__(self): raise OSError\nraise ValueError(A())": "ValueError: ['A']",
    "10**30": "Error: Do not know how to serialize a BigInt",
    "1 / 0": "ZeroDivisionError: ['division by zero']",
}


@pytest.fixture(scope="module")
def interpreter(prepared: None) -> Iterator[Interpreter]:
    """Yield one sandbox for all cases: none of them ends it."""
    started = Interpreter.started()
    yield started
    started.shutdown()


@pytest.mark.parametrize("case", SUBMITTED)
def test_submitted_value_arrives(interpreter: Interpreter, case: str) -> None:
    code, expected = SUBMITTED[case]
    assert interpreter.execute(code).output == {"output": expected}


@pytest.mark.parametrize("code", REFUSED)
def test_value_that_is_no_json_is_an_error_of_the_code(interpreter: Interpreter, code: str) -> None:
    with pytest.raises(dspy.CodeExecutionError) as caught:
        interpreter.execute(code)
    assert str(caught.value) in (f'ValueError: ["{REFUSED[code]}"]', f"ValueError: ['{REFUSED[code]}']")
    assert interpreter.execute("print('alive')").strip() == "alive"


@pytest.mark.parametrize("code", RAISED)
def test_exception_with_any_arguments_is_an_error_of_the_code(interpreter: Interpreter, code: str) -> None:
    with pytest.raises(dspy.CodeExecutionError) as caught:
        interpreter.execute(code)
    assert str(caught.value) == RAISED[code]


def test_outputs_of_a_signature_are_submitted_by_name(interpreter: Interpreter) -> None:
    interpreter.offer({}, [{"name": "words", "type": "list"}, {"name": "n", "type": "int"}])
    assert interpreter.execute("SUBMIT({'b', 'a'}, n=2)").output == {"words": ["a", "b"], "n": 2}
    with pytest.raises(dspy.CodeExecutionError, match="cannot submit nan at n; submit it as text"):
        interpreter.execute("SUBMIT([], float('nan'))")
    interpreter.offer({}, None)


def test_tool_returns_a_set_as_a_sorted_list(interpreter: Interpreter) -> None:
    interpreter.offer({"words": lambda: {"b", "a", "c"}}, None)
    assert interpreter.execute("print(words())").strip() == "['a', 'b', 'c']"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "ProgramOfThought" else pytest.mark.long) for name in MODULES]
)
def test_set_submitted_in_each_module_ends_no_sandbox(sandboxes: sandbox.Sandboxes, name: str) -> None:
    assert run(name, "SUBMIT({2, 1})", sandboxes).answer in ("done", "[1, 2]")
