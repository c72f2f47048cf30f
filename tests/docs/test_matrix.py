"""Test that the versions that are tested are those that are allowed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
WORKFLOW = (ROOT / ".github" / "workflows" / "test.yml").read_text()


def test_every_allowed_python_is_tested() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    bounds = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', pyproject)
    assert bounds is not None
    allowed = [f"3.{minor}" for minor in range(int(bounds[1]), int(bounds[2]))]
    tested = re.search(r"python: \[(.+)\]\n +# The oldest pair", WORKFLOW)
    assert tested is not None
    assert re.findall(r"3\.\d+", tested[1]) == allowed
    # Both scripts know the same ones.
    oldest, newest = allowed[0].replace(".", ", "), allowed[-1]
    assert f"{oldest}) <= sys.version_info < (3, {bounds[2]})" in (ROOT / "setup" / "python").read_text()
    minors = " ".join(each.removeprefix("3.") for each in allowed)
    assert f"for minor in {minors}; do" in (ROOT / "setup" / "matrix").read_text()
    assert f"Python 3.10 to {newest}" in (ROOT / "README.md").read_text()


def test_every_elixir_from_the_oldest_that_is_allowed_is_tested() -> None:
    allowed = re.search(r'elixir: "~> (\d\.\d+)"', (ROOT / "mix_stub" / "mix.exs").read_text())
    assert allowed is not None
    tested = sorted({int(minor) for minor in re.findall(r'elixir: "1\.(\d+)"', WORKFLOW)})
    assert tested == list(range(int(allowed[1].removeprefix("1.")), tested[-1] + 1))
