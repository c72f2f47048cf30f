"""Imports point one way, as docs/design.md draws it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "erlport_bridge"

# What a layer may import of this package, beside itself.
MAY_IMPORT = {
    "redaction": set(),
    "request": set(),
    "errors": {"redaction"},
    "term": {"errors"},
    "threads": {"errors", "request"},
    "port": {"term", "errors", "redaction", "request", "threads"},
    "programs": {"term", "errors", "redaction", "port.elixir", "request", "threads"},
    "optimizing": {"programs", "errors", "term", "request", "threads"},
    "operations": {"programs", "optimizing", "term", "errors", "request", "threads"},
    "__main__": {"port", "term", "threads", "errors"},
    "__init__": set(),
}


def imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relative to itself"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def layer_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_layer_imports_only_the_layers_below_it(file: Path) -> None:
    layer = layer_of(file)
    for name in imported_modules(file):
        parts = name.split(".")
        if parts[0] == "erlport_bridge" and len(parts) > 1 and parts[1] != "__version__":
            # A whole layer, or one module of it.
            assert {parts[1], ".".join(parts[1:3])} & (MAY_IMPORT[layer] | {layer}), f"{file} imports {name}"
        assert parts[0] != "dspy_bridge"
        if parts[0] == "dspy":
            assert layer in ("programs", "optimizing", "operations"), f"{file} imports DSPy"


def test_every_layer_is_known() -> None:
    assert {layer_of(file) for file in PACKAGE.rglob("*.py")} == set(MAY_IMPORT)
