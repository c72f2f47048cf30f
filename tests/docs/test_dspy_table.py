"""The page of DSPy's classes says what is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "dspy_table.py"


@pytest.fixture
def dspy_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dspy_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_class_of_dspy_stands_on_the_page_as_it_is_reached(dspy_table: ModuleType) -> None:
    page = dspy_table.PAGE.read_text(encoding="utf-8")
    assert page == dspy_table.page(), "run: python docs/dspy_table.py"
    for name in dspy_table.public_classes():
        assert f"| `dspy.{name}` |" in page


def test_nothing_is_said_of_classes_that_there_are_not(dspy_table: ModuleType) -> None:
    assert set(dspy_table._SAID) <= set(dspy_table.public_classes())
