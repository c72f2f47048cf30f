"""The map in ``CONTRIBUTING.md`` leads to the places that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAP = re.findall(
    r"^\| ([^|`]*)\| `([^`]+)` \| `([^`]+)` \|$",
    PAGE.partition("\n## Where things are\n")[2].partition("\n## ")[0],
    flags=re.MULTILINE,
)


def test_ten_questions_are_answered_by_path_alone() -> None:
    assert sum(bool(question.strip()) for question, _path, _name in MAP) >= 10


@pytest.mark.parametrize(("path", "name"), [(path, name) for _question, path, name in MAP])
def test_place_of_the_map_exists_and_has_the_name(path: str, name: str) -> None:
    place = ROOT / path
    files = sorted(place.rglob("*.py")) if path.endswith("/") else [place]
    assert any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", file.read_text(encoding="utf-8")) for file in files)


def test_make_commands_that_the_page_names_are_targets() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    commands = set(re.findall(r"(?:^|`)make (?:\w+=\S+ )?(\w+)", PAGE, flags=re.MULTILINE))
    assert commands <= set(targets)
