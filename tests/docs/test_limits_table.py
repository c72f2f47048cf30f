"""The table of limits in ``docs/operations.md`` says what the code enforces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from erlport_bridge.limits import LIMITS
from erlport_bridge.programs.pipelines.module_spec import MAX_DEPTH as MAX_MODULES
from erlport_bridge.programs.pipelines.program_spec import MAX_STAGES
from erlport_bridge.programs.signatures.spec import MAX_FIELDS, MAX_SIGNATURE_CHARACTERS
from erlport_bridge.programs.signatures.type_parser import MAX_TYPE_DEPTH, MAX_TYPE_MEMBERS
from erlport_bridge.programs.values.inputs import MAX_VALUE_DEPTH
from erlport_bridge.term import MAX_DEPTH

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## Limits\n")[2]


class Row(NamedTuple):
    """One row of the table."""

    default: str
    option: str | None
    kind: str | None


def rows() -> dict[str, Row]:
    """Return the rows of the table, by the name of the limit."""
    lines = [line for line in SECTION.partition("\n## ")[0].splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines]
    return {name: Row(default, option or None, kind or None) for name, default, option, kind, _ in cells}


FIXED = {
    "modules in modules": Row(f"{MAX_MODULES} levels", None, "input"),
    "stages": Row(f"{MAX_STAGES} stages", None, "input"),
    "fields": Row(f"{MAX_FIELDS} fields", None, "signature"),
    "characters of a signature": Row(f"{MAX_SIGNATURE_CHARACTERS} characters", None, "signature"),
    "nesting of a type": Row(f"{MAX_TYPE_DEPTH} levels", None, "signature"),
    "members of a type": Row(f"{MAX_TYPE_MEMBERS} members", None, "signature"),
    "nesting of a value": Row(f"{MAX_VALUE_DEPTH} levels", None, "input"),
    "nesting of a term": Row(f"{MAX_DEPTH} levels", None, "input"),
}


def test_table_has_every_limit_with_its_default_option_and_kind() -> None:
    own = {name: Row(f"{one.default} {one.unit}", one.option, one.kind) for name, one in LIMITS.items()}
    own["conversation"] = own["conversation"]._replace(kind=None)  # the oldest turns go; it is no error
    assert rows() == own | FIXED


def test_elixir_has_the_same_defaults() -> None:
    source = (ROOT / "mix_stub/lib/dspex/python/wire/limits.ex").read_text(encoding="utf-8")
    found = dict(re.findall(r"(max_\w+): (\d+) \* @mebibyte", source))
    assert {name: int(count) * 1024**2 for name, count in found.items()} == {
        str(one.option): one.default for one in LIMITS.values() if (one.option or "").startswith("max_")
    }
    assert f"def max_modules, do: {MAX_MODULES}\n" in source
