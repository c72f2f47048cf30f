"""Only ``dspy_patches`` replaces names of DSPy, and its table lists every private name that is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from erlport_bridge.dspy_patches.guards import has_private_name
from erlport_bridge.dspy_patches.private_names import PRIVATE_NAMES

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "erlport_bridge"
FILES = sorted(PACKAGE.rglob("*.py"))
SEAM = PACKAGE / "dspy_patches"
_MARKED = "__dspy"
# Functions that can assign to an attribute of their first argument.
_SETTERS = ("setattr", "delattr", "vars", "patch", "object")


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def short(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def imported(tree: ast.AST) -> dict[str, str]:
    """Return the names that a file imports, each with its module."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                names[name.asname or name.name.partition(".")[0]] = name.name
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                names[name.asname or name.name] = f"{node.module}.{name.name}"
    return names


def is_of_dspy(module: str) -> bool:
    return module == "dspy" or module.startswith("dspy.")


def root_of(node: ast.AST) -> str | None:
    """Return ``a`` of ``a.b[0].c``."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def replacements(tree: ast.Module) -> Iterator[str]:
    """Yield the assignments of a file to names that it imports from DSPy."""
    names = {name for name, module in imported(tree).items() if is_of_dspy(module)}
    # Loop variables and assigned names that hold a name of DSPy.
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension) and any(
            isinstance(item, ast.Name) and item.id in names for item in ast.walk(node.iter)
        ):
            names |= {item.id for item in ast.walk(node.target) if isinstance(item, ast.Name)}
        is_alias = isinstance(getattr(node, "value", None), ast.Name | ast.Attribute)
        if isinstance(node, ast.Assign) and is_alias and root_of(node.value) in names:
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        is_read = isinstance(getattr(node, "ctx", None), ast.Load)
        if isinstance(node, ast.Attribute | ast.Subscript) and not is_read and root_of(node) in names:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call) and node.args and root_of(node.args[0]) in names:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _SETTERS:
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "file", [*FILES, ROOT / "priv/python/dspy_bridge.py"], ids=lambda file: str(file.relative_to(ROOT))
)
def test_file_replaces_no_name_of_dspy(file: Path) -> None:
    """Files of ``dspy_patches`` neither: one function replaces all names, and takes them from the table."""
    assert list(replacements(parsed(file))) == []


def test_names_are_replaced_in_one_place() -> None:
    calls = [
        (short(file), node.lineno)
        for file in SEAM.glob("*.py")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr"
    ]
    assert [file for file, _ in calls] == ["dspy_patches/guards.py"]


@pytest.mark.parametrize(
    "text",
    [
        "import dspy\ndspy.cache = 1",
        "from dspy.primitives import facade\nfacade.name = 1",
        "from dspy.adapters import base\nbase.Adapter.name = 1",
        "from dspy.adapters import base as other\nother.LIST[:] = [1]",
        "import dspy.adapters\ndspy.adapters.base.name += 1",
        "from dspy import a, b\nfor module in (a, b):\n    module.name = 1",
        "import dspy\nsetattr(dspy.LM, 'name', 1)",
        "import dspy\nvars(dspy)['name'] = 1",
        "import dspy\ndel dspy.name",
        "import dspy\nadapter = dspy.Adapter\nadapter.format = 1",
    ],
)
def test_a_replacement_is_seen(text: str) -> None:
    assert list(replacements(ast.parse(text)))


def private_names(file: Path) -> set[str]:
    """Return the private names of DSPy that a file uses."""
    tree = parsed(file)
    names = imported(tree)
    if not any(map(is_of_dspy, names.values())) and not _inherits(file):
        return _marked(tree)
    own = _own_names(tree)
    found = _marked(tree) | _inherited(file)
    for module in filter(is_of_dspy, names.values()):
        found |= {part for part in module.split(".") if part.startswith("_")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            module = names.get(root_of(node.value) or "", "dspy")
            if _is_private(node.attr) and node.attr not in own and is_of_dspy(module):
                found.add(node.attr)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            names_asked = {str(item.value) for item in node.args[1:2] if isinstance(item, ast.Constant)}
            found |= {name for name in names_asked - own if _is_private(name)}
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def _own_names(tree: ast.Module) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    own = {node.name for node in ast.walk(tree) if isinstance(node, functions)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return own


def _marked(tree: ast.Module) -> set[str]:
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str) and value.startswith(_MARKED)}


def _classes(file: Path) -> Iterator[tuple[type, ast.ClassDef]]:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if module.endswith("__main__"):
        return
    for node in parsed(file).body:
        if isinstance(node, ast.ClassDef):
            yield getattr(importlib.import_module(module), node.name), node


def _bases_of_dspy(cls: type) -> list[type]:
    return [base for base in cls.__mro__[1:] if is_of_dspy(base.__module__)]


def _inherits(file: Path) -> bool:
    return any(_bases_of_dspy(cls) for cls, _ in _classes(file))


def _inherited(file: Path) -> set[str]:
    """Return the private names that the classes of a file share with DSPy's classes from which they derive."""
    found = set()
    for cls, node in _classes(file):
        theirs = set()
        for base in _bases_of_dspy(cls):
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            theirs |= set(vars(base)) | {item.attr for item in ast.walk(tree) if isinstance(item, ast.Attribute)}
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        used = {item.attr for item in ast.walk(node) if isinstance(item, ast.Attribute)}
        used |= {item.name for item in node.body if isinstance(item, functions)}
        found |= {name for name in used & theirs if _is_private(name)}
    return found


def test_private_names_are_those_of_the_table() -> None:
    used: dict[str, set[str]] = {}
    for file in FILES:
        # The tables contain the names as text.
        if file.name not in ("table.py", "private_names.py") or file.parent != SEAM:
            for name in private_names(file):
                used.setdefault(name, set()).add(short(file))
    assert used == {row.name: set(row.used_in) for row in PRIVATE_NAMES}


@pytest.mark.parametrize("row", PRIVATE_NAMES, ids=lambda row: row.name)
def test_dspy_has_each_private_name(row: object) -> None:
    (private,) = [one for one in PRIVATE_NAMES if one is row]
    assert private.why
    assert has_private_name(private.place, private.name)
    assert not has_private_name(f"{private.place.partition(':')[0]}:NoSuchName", private.name)


def test_a_class_without_a_private_name_is_seen() -> None:
    assert not has_private_name("dspy:Example", "_no_such_name")
    assert not has_private_name("dspy.no_such_module:Example", "_store")
