"""Arithmetic is found in sentences and evaluated within bounds."""

from __future__ import annotations

import time

import pytest

from erlport_bridge.programs.text.arithmetic import evaluate, find_expression


@pytest.mark.parametrize(
    ("sentence", "expression"),
    [
        ("What is 6 * 7?", "6 * 7"),
        ("what is 6 times 7?", "6 * 7"),
        ("Compute 2^10.", "2^10"),
        ("the sum of the numbers 3, 4 and 5", "3 + 4 + 5"),
        ("What is 1,234 plus 1?", "1234 + 1"),
        ("the product of 2 and 8", "2 * 8"),
        ("What is the square root of 16?", "sqrt(16)"),
        ("What happened from 1914-1918?", None),
        ("Was it on 2024-05-01?", None),
        ("Call 555-1234.", None),
        ("Who won in 1966?", None),
        ("Is C++ faster?", None),
    ],
)
def test_expression_is_found_in_a_sentence(sentence: str, expression: str | None) -> None:
    assert find_expression(sentence) == expression


@pytest.mark.parametrize(
    "hostile",
    [
        "9**9**9",
        "2**5000",
        "(-8)**0.5",
        "1/0",
        "__import__('os')",
        "'a'*9",
        "True+1",
        "[1]*9",
        "1e308*10",
        "(" * 250,
        "x",
    ],
)
def test_evaluator_refuses_everything_but_bounded_arithmetic(hostile: str) -> None:
    started_at = time.thread_time()
    with pytest.raises(ValueError, match=r".+"):
        evaluate(hostile)
    assert time.thread_time() - started_at < 1


@pytest.mark.parametrize(
    ("expression", "value"), [("6*7", 42), ("2^10", 1024), ("-3 + 5 // 2", -1), ("max(1, 7) % 4", 3), ("1**9999", 1)]
)
def test_evaluator_computes(expression: str, value: float) -> None:
    assert evaluate(expression) == value
