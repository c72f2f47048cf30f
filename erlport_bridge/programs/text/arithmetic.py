"""Evaluate arithmetic expressions within bounds, and find an expression in a sentence.

The calculator tool and the embedded model share this module. Nothing here calls ``eval``: ``ast`` parses an expression,
only the node types named below are computed, and the result of each step is bounded in size.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

Number = int | float

# The evaluator recurses, at worst one level per character: this is well below Python's recursion limit.
_MAX_CHARACTERS: Final = 300

# 2 ** 4096 has 1,234 digits: more than a sentence needs, and fast to compute and to print.
_MAX_BITS: Final = 4_096

_OPERATORS: Final[Mapping[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Final[Mapping[str, Callable[..., Number]]] = {
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
}
_CONSTANTS: Final[Mapping[str, float]] = {"pi": math.pi, "e": math.e}


def evaluate(expression: str) -> Number:
    """Compute an arithmetic expression such as ``"(3 + 4) * 2 ** 5"``.

    Args:
        expression: At most 300 characters of numbers, ``+ - * / // % ** ^`` (``^`` is a power), parentheses, ``pi``,
            ``e``, and the functions abs, ceil, floor, max, min, round and sqrt.

    Raises:
        ValueError: The expression is anything else, divides by zero, or has a result of more than 4,096 bits.

    >>> evaluate("6 * 7")
    42
    """
    if len(expression) > _MAX_CHARACTERS:
        raise ValueError(f"expected an expression of at most {_MAX_CHARACTERS} characters, got {len(expression)}")
    try:
        tree = ast.parse(expression.replace("^", "**").strip(), mode="eval")
        result = _value(tree.body)
    except ZeroDivisionError:
        raise ValueError(f"division by zero in {expression!r}") from None
    except OverflowError:
        raise ValueError(f"the result of {expression!r} is too large") from None
    except (SyntaxError, RecursionError, MemoryError, TypeError):
        raise ValueError(f"expected an arithmetic expression, got {expression!r}") from None
    return result


def _value(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _OPERATORS:
            return _bounded(_OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        function = _FUNCTIONS.get(node.func.id)
        if function is not None:
            return _bounded(function(*map(_value, node.args)))
    raise ValueError(
        f"only numbers, + - * / // % ** and {', '.join(_FUNCTIONS)} can be computed, got {ast.unparse(node)!r}"
    )


def _power(base: Number, exponent: Number) -> Number:
    # Check the size before computing: 9 ** 9 ** 9 would take minutes and gigabytes.
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and int(base).bit_length() * exponent > _MAX_BITS:
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise TypeError
    return _bounded(result)


def _bounded(value: Number) -> Number:
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise OverflowError
    elif not math.isfinite(value):
        raise OverflowError
    return value


_NUMBER: Final = r"\d{1,30}(?:\.\d{1,30})?"
_WORDS: Final = (
    (re.compile(r"\b(?:to the power of|raised to)\b", re.I), " ** "),
    (re.compile(r"\b(?:divided by|over)\b|÷", re.I), " / "),
    (re.compile(r"\b(?:times|multiplied by)\b|×|(?<=\d)\s{0,3}x\s{0,3}(?=\d)", re.I), " * "),
    (re.compile(r"\bplus\b", re.I), " + "),
    (re.compile(r"\bminus\b|−", re.I), " - "),
    (re.compile(r"\bmodulo\b", re.I), " % "),
    (re.compile(r"\bsquared\b", re.I), " ** 2 "),
    (re.compile(r"\bcubed\b", re.I), " ** 3 "),
    (re.compile(rf"\bsquare root of\s{{1,3}}({_NUMBER})", re.I), r"sqrt(\1)"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
)
_AGGREGATE: Final = re.compile(
    rf"\b(sum|total|product|average|mean|maximum|minimum|largest|smallest) of\b[^\d\n]{{0,40}}"
    rf"(-?{_NUMBER}(?:(?:\s{{0,3}},\s{{0,3}}(?:and\s{{1,3}})?|\s{{1,3}}and\s{{1,3}})-?{_NUMBER}){{1,40}})",
    re.I,
)
_PLAIN: Final = re.compile(r"(?:sqrt|[\d.+\-*/%^() ]){3,300}")
_OPERATION: Final = re.compile(r"\d\s*\)*\s*(?:\*\*|//|[+*/%^]|\s-\s?|-(?=\s))\s*[\d(+-]|sqrt\(|\d-\d")
# 2024-05-01, 1914-1918 and 555-1234 look like subtractions but are a date, a range of years and a phone number.
_DASHED_FIGURES: Final = re.compile(r"\d{3,}-\d|\d-\d+-\d")


def find_expression(sentence: str) -> str | None:
    """Return the arithmetic expression in a sentence, in the form that :func:`evaluate` takes.

    Args:
        sentence: A question rather than a document; only its first 2,000 characters are read.

    Returns:
        ``"3 + 4 + 5"`` for ``"the sum of 3, 4 and 5"``; ``"6 * 7"`` for ``"what is 6 times 7?"``; ``None`` if the
        sentence has no expression.
    """
    sentence = sentence[:2_000]
    aggregate = _AGGREGATE.search(sentence)
    if aggregate is not None:
        return _aggregate_expression(aggregate[1].lower(), re.findall(rf"-?{_NUMBER}", aggregate[2]))
    for word, symbol in _WORDS:
        sentence = word.sub(symbol, sentence)
    for match in _PLAIN.finditer(sentence):
        candidate = " ".join(match[0].split()).strip(" .*/%^+").rstrip("-( ")
        if _OPERATION.search(candidate) and not _DASHED_FIGURES.search(candidate) and _computable(candidate):
            return candidate
    return None


def _aggregate_expression(word: str, numbers: list[str]) -> str:
    if word in ("maximum", "largest", "minimum", "smallest"):
        return f"{'max' if word in ('maximum', 'largest') else 'min'}({', '.join(numbers)})"
    if word == "product":
        return " * ".join(numbers)
    total = " + ".join(numbers)
    return f"({total}) / {len(numbers)}" if word in ("average", "mean") else total


def _computable(candidate: str) -> bool:
    try:
        evaluate(candidate)
    except ValueError:
        return False
    return True
