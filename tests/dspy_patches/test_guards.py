"""Fingerprints: what changes them, and what does not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import dspy
import pytest
from dspy.adapters import utils

from erlport_bridge.dspy_patches import guards
from erlport_bridge.dspy_patches.guards import NotFoundError, Place, difference, fingerprint, source_of
from erlport_bridge.dspy_patches.installing import seam
from erlport_bridge.dspy_patches.table import PATCHES

TEXT = '''
def unchanged(function):
    return function

def plain(a):
    """Say."""

    return a
# beside it
class Of:
    @staticmethod
    @unchanged
    def decorated(
        a,
    ) -> int:

        # within
        return a


    async def last(self): return (
        1
    )

'''


def made(text: str, tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
    file.write_text(text)
    names: dict[str, Any] = {}
    exec(compile(text, str(file), "exec"), names)  # noqa: S102 - a module of the test's own
    return names


def of_dspy(name: str) -> Any:
    """Return DSPy's value of a name, which a patch may have replaced."""
    replaced = {target: value for values in seam.originals.values() for target, value in values.items()}
    return replaced[name] if name in replaced else Place(name).value()


def functions() -> list[FunctionType]:
    names = {name for patch in PATCHES for name in patch.expects}
    found = map(of_dspy, sorted(names))
    return [item for item in found if isinstance(item, FunctionType) and item.__module__.startswith("dspy")]


@pytest.mark.parametrize("function", functions(), ids=lambda function: function.__qualname__)
def test_the_source_of_a_function_is_the_one_that_python_finds(function: FunctionType) -> None:
    lines, _ = inspect.getsourcelines(function.__code__)
    assert source_of(function) == "\n".join(line.rstrip() for line in lines).rstrip()


@pytest.mark.parametrize("find", [lambda names: names["plain"], lambda names: names["Of"].decorated])
def test_the_source_ends_with_the_function(find: Callable[..., Any], tmp_path: Path) -> None:
    function = find(made(TEXT, tmp_path))
    lines, _ = inspect.getsourcelines(function)
    assert source_of(function) == "".join(lines).rstrip()


@pytest.mark.parametrize(
    ("old", "new"),
    [("return a\n#", "return  a\n#"), ("def plain(a)", "def plain(a, b=1)"), ('"""Say."""', '"""Say it."""')],
)
def test_a_changed_function_has_another_fingerprint(old: str, new: str, tmp_path: Path) -> None:
    before, after = made(TEXT, tmp_path), made(TEXT.replace(old, new), tmp_path)
    assert fingerprint(before["plain"]) != fingerprint(after["plain"])
    assert fingerprint(before["Of"].decorated) == fingerprint(after["Of"].decorated)


@pytest.mark.parametrize(
    "text",
    [
        "from contextlib import contextmanager\n@contextmanager\ndef made():\n    yield 1\n",
        "class Of:\n    @property\n    def made(self):\n        return 1\nmade = Of.made\n",
        "class Of:\n    @classmethod\n    def made(cls):\n        return 1\nmade = Of.made\n",
    ],
    ids=["context manager", "property", "class method"],
)
def test_what_is_made_of_a_function_has_its_fingerprint(text: str, tmp_path: Path) -> None:
    prints = [fingerprint(made(one, tmp_path)["made"]) for one in (text, f"\n{text}", text.replace("1", "2"))]
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == len(fingerprint(fingerprint))


def test_a_function_has_the_same_fingerprint_elsewhere_in_its_file(tmp_path: Path) -> None:
    before, after = made(TEXT, tmp_path), made(f"import os\n\n{TEXT}", tmp_path)
    assert fingerprint(before["plain"]) == fingerprint(after["plain"])


def test_a_function_whose_source_cannot_be_read_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = made(TEXT, tmp_path)
    monkeypatch.setattr(utils, "find_enum_member", names["plain"])
    for file in tmp_path.iterdir():
        file.unlink()
    guards._lines.cache_clear()
    name = "dspy.adapters.utils:find_enum_member"
    assert difference({name: ("any",)}) == f"the source of {name} cannot be read"
    (tmp_path / "0.py").write_text("")
    assert difference({name: ("any",)}) == f"the source of {name} cannot be read"


@pytest.mark.parametrize(
    "name", ["dspy.no_such_module:name", "dspy:no_such_name", "dspy:Adapter.no_such_name", "dspy:NoSuchClass.format"]
)
def test_a_name_that_dspy_does_not_have_is_reported(name: str) -> None:
    assert "no" in str(difference({name: ("any",)}))
    with pytest.raises(NotFoundError):
        Place(name).value()


def test_a_name_may_be_elsewhere_in_another_version() -> None:
    assert Place("dspy.no_such_module:name | dspy:NoSuchClass.name | dspy:Predict").value() is dspy.Predict
