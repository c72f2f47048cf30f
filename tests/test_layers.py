"""Test that imports point one way, and use only the names that another package's ``__init__`` exports."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "erlport_bridge"
FILES = sorted(PACKAGE.rglob("*.py"))

# Every package, and every module that stands alone, lowest first; with the packages that it imports. A name that begins
# with a dot is one of programs.
_LAYERS = {
    "bounded_output": "",
    "redaction": "bounded_output",
    "request": "",
    "worker": "",
    "errors": "redaction",
    "limits": "errors",
    "tracing": "redaction errors",
    "term": "errors",
    "threads": "errors request",
    "store": "redaction errors request tracing term",
    "port": "redaction errors limits request term threads",
    "template": "redaction port",
    "counting": "redaction",
    "dspy_patches": "errors limits request term",
    "programs": "dspy_patches",
    ".text": "errors limits term",
    ".callbacks": "errors limits request port .text",
    ".options": "errors limits term .text",
    ".signatures": "errors term .text",
    ".tools": "errors limits request term threads tracing dspy_patches .text .callbacks",
    ".sandbox": "errors request threads tracing counting dspy_patches .text .signatures",
    ".values": "errors term dspy_patches .text .signatures .tools",
    ".models": (
        "redaction errors limits request term threads tracing port counting worker dspy_patches .text .callbacks "
        ".options .signatures .values"
    ),
    ".modules": (
        "errors limits request term tracing .text .callbacks .options .signatures .tools .sandbox .values .models"
    ),
    ".pipelines": (
        "errors limits term tracing dspy_patches .text .callbacks .options .signatures .tools .values .models .modules"
    ),
    ".execution": (
        "errors limits request term tracing port counting worker .text .callbacks .options .signatures .tools .sandbox "
        ".values .models .modules .pipelines"
    ),
    ".sessions": (
        "errors limits request term store counting .text .callbacks .signatures .values .models .modules .pipelines "
        ".execution"
    ),
    "optimizing": (
        "errors request term threads tracing dspy_patches .text .callbacks .options .signatures .tools .sandbox "
        ".values .models .modules .pipelines .execution .sessions"
    ),
    "operations": (
        "errors limits request term threads tracing store counting worker dspy_patches .text .options .signatures "
        ".tools .sandbox .values .models .modules .pipelines .execution .sessions optimizing"
    ),
    "__main__": "errors limits request term threads store port template worker",
}


def _whole(name: str) -> str:
    return f"programs{name}" if name.startswith(".") else name


MAY_IMPORT: dict[str, set[str]] = {
    _whole(package): {_whole(name) for name in names.split()} for package, names in _LAYERS.items()
}
# Names that applications import.
_PUBLIC = {"programs.tools.offer"}
_KNOW_DSPY = ("dspy_patches", "programs", "optimizing", "operations")
# Packages that know neither DSPy nor the operations, so that the codec and the port can be used without either.
_WITHOUT_DSPY = ("programs.text",)


def module_name(file: Path) -> str:
    """Return ``erlport_bridge.port.runtime`` for ``erlport_bridge/port/runtime.py``."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file) for file in FILES}


def package_of(module: str) -> str:
    """Return the entry of :data:`MAY_IMPORT` to which a module belongs."""
    parts = module.split(".")[1:]
    found = [".".join(parts[:length]) for length in (2, 1) if ".".join(parts[:length]) in MAY_IMPORT]
    return found[0] if found else ".".join(parts)


class Import(NamedTuple):
    """One imported name: ``name`` of ``module``; only a module where ``name`` is ``None``."""

    module: str
    name: str | None

    @property
    def target(self) -> str:
        """Return the module that is imported."""
        whole = f"{self.module}.{self.name}"
        return whole if whole in MODULES else self.module


def imports_of(file: Path) -> Iterator[Import]:
    """Yield every import of a file, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(name.name, None) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relative to itself"
            yield from (Import(str(node.module), name.name) for name in node.names)


def short(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


@pytest.mark.parametrize("file", FILES, ids=short)
def test_file_imports_only_lower_packages(file: Path) -> None:
    package = package_of(module_name(file))
    for imported in imports_of(file):
        root = imported.module.partition(".")[0]
        assert root != "dspy_bridge"
        if root == "dspy":
            assert package.split(".")[0] in _KNOW_DSPY, f"{file} imports DSPy"
            assert package not in _WITHOUT_DSPY, f"{file} imports DSPy"
        if root == PACKAGE.name and imported.target != PACKAGE.name:
            other = package_of(imported.target)
            assert other in MAY_IMPORT[package] | {package}, f"{file} imports {imported.target}"


@pytest.mark.parametrize("file", FILES, ids=short)
def test_file_uses_only_what_other_packages_export(file: Path) -> None:
    package = package_of(module_name(file))
    for imported in imports_of(file):
        if not imported.module.startswith(f"{PACKAGE.name}."):
            continue
        other = package_of(imported.target)
        if other == package or not (PACKAGE / other.replace(".", "/")).is_dir():
            continue
        whole = f"{PACKAGE.name}.{other}"
        exported = importlib.import_module(whole).__all__
        if imported.module == whole:
            assert imported.name in exported, f"{imported.name} is not exported by {whole}"
        elif imported.target != whole:
            # A module of the package, which must itself be exported.
            assert imported.target.removeprefix(f"{whole}.") in exported, f"{imported.target} is not exported"


def test_packages_are_listed_from_the_lowest_to_the_highest() -> None:
    lower: set[str] = set()
    for package, others in MAY_IMPORT.items():
        assert others <= lower, f"{package} imports {others - lower}, which stands above it"
        lower.add(package)


def test_every_package_is_listed_and_every_permission_is_used() -> None:
    used: dict[str, set[str]] = {}
    for file in FILES:
        package = package_of(module_name(file))
        found = used.setdefault(package, set())
        targets = [imported.target for imported in imports_of(file) if imported.module.startswith(PACKAGE.name)]
        found |= {package_of(target) for target in targets if target != PACKAGE.name} - {package}
    del used[""]
    assert used == MAY_IMPORT


def test_files_import_each_other_without_a_cycle() -> None:
    graph = {module_name(file): {imported.target for imported in imports_of(file)} & MODULES for file in FILES}
    for module, targets in graph.items():
        # The public interface of a package imports its modules; they import one another directly.
        targets.discard(module)
    TopologicalSorter(graph).prepare()


def test_every_exported_name_is_used_by_another_package() -> None:
    used = {name for file in [*FILES, ROOT / "priv/python/dspy_bridge.py"] for name in _used_names(file)}
    for package in MAY_IMPORT:
        if package in ("term", "threads") or not (PACKAGE / package.replace(".", "/")).is_dir():
            continue
        whole = f"{PACKAGE.name}.{package}"
        for name in getattr(importlib.import_module(whole), "__all__", ()):
            is_used = f"{whole}.{name}" in used or f"{package}.{name}" in _PUBLIC
            assert is_used, f"{whole} exports {name}, which no other package uses"


def _used_names(file: Path) -> Iterator[str]:
    package = package_of(module_name(file)) if file.is_relative_to(PACKAGE) else None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE.name):
            for name in node.names:
                target = Import(str(node.module), name.name).target
                if package_of(target) != package:
                    yield target
                    yield f"{node.module}.{name.name}"
                    names[name.asname or name.name] = target
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            yield f"{names[node.value.id]}.{node.attr}"
