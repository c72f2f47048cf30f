"""Each promise in ``docs/promises.md`` has a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!promise|---|\*\*)(.+?) \| `([^`:]+): (.+)` \|$", PAGE, flags=re.MULTILINE)


def test_every_row_names_a_test() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.endswith("| |")]
    assert len(ROWS) == len(lines) - 2  # the head of the table


@pytest.mark.parametrize(("path", "name"), [(path, name) for _promise, path, name in ROWS])
def test_promise_has_its_test(path: str, name: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    pattern = rf"def {re.escape(name)}\(" if path.endswith(".py") else rf'test "[^"]*{re.escape(name)}'
    assert re.search(pattern, text)
