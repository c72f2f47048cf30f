"""The tables of ``docs/architecture.md`` describe the code as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from tests.test_layers import FILES, MAY_IMPORT, imports_of, module_name, package_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the rows of the first table under a heading, without its header."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def paths_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def functions_of(file: Path) -> Iterator[str]:
    """Yield the functions and methods that a file defines: ``function``, or ``Class.method``."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ex":
        yield from re.findall(r"^ +def(?:delegate)? (\w+[?!]?)", text, flags=re.MULTILINE)
        return
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            methods = (item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
            yield from (f"{node.name}.{method.name}" for method in methods)


PYTHON_LAYERS = rows_of("Layers of the Python side")
ELIXIR_LAYERS = [path for row in rows_of("Layers of the Elixir side") for path in paths_in(row[0])]
STEPS = [step for row in rows_of("The way of one call") for step in paths_in(row[0])]


def test_python_layers_are_those_of_the_imports_in_the_same_order() -> None:
    listed = [paths_in(row[0])[0] for row in PYTHON_LAYERS]
    names = [path.removeprefix("erlport_bridge/").removesuffix("/").removesuffix(".py") for path in listed]
    assert [name.replace("/", ".") for name in names] == list(MAY_IMPORT)
    for path in listed:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path


def test_layers_that_import_dspy_are_named() -> None:
    importing = {
        package_of(module_name(file))
        for file in FILES
        if any(imported.module.partition(".")[0] == "dspy" for imported in imports_of(file))
    }
    named = [package for package, row in zip(MAY_IMPORT, PYTHON_LAYERS, strict=True) if row[2] == "yes"]
    assert named == [package for package in MAY_IMPORT if package in importing]


@pytest.mark.parametrize("path", ELIXIR_LAYERS)
def test_elixir_layer_exists(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_every_folder_of_the_elixir_side_is_a_layer() -> None:
    folder = ROOT / "mix_stub" / "lib" / "dspex" / "python"
    found = {f"{path.relative_to(ROOT)}/" for path in folder.iterdir() if list(path.glob("*.ex"))}
    assert found <= set(ELIXIR_LAYERS)


def test_way_of_a_call_goes_to_python_and_back() -> None:
    sides = [step.partition("/")[0] for step in STEPS]
    assert [side for side, _ in groupby(sides)] == ["mix_stub", "erlport_bridge", "mix_stub"]


@pytest.mark.parametrize("step", STEPS)
def test_step_of_a_call_names_a_function_that_its_file_defines(step: str) -> None:
    path, _, function = step.partition(": ")
    assert (ROOT / path).is_file(), path
    assert function in set(functions_of(ROOT / path))
