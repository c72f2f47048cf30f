"""The tables of options in ``docs/operations.md`` say what the vocabularies of options say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from erlport_bridge.optimizing.compiling import COMPILE_OPTIONS
from erlport_bridge.programs.execution.batch import BATCH_OPTIONS
from erlport_bridge.programs.execution.call_options import PROGRAM_CALL_OPTIONS
from erlport_bridge.programs.execution.evaluation import EVALUATION_OPTIONS
from erlport_bridge.programs.execution.streaming import STREAM_OPTIONS
from erlport_bridge.programs.models import GENERATION_SETTINGS, configuration
from erlport_bridge.programs.modules import catalogue
from erlport_bridge.programs.options import Option, Vocabulary

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
HEADER = "| option | type | default | meaning |"
# The form of a default in Elixir.
_SHOWN = {None: "nil", True: "true", False: "false"}


class Row(NamedTuple):
    """One option of a table."""

    type: str
    default: str
    meaning: str


def tables_under(heading: str) -> list[dict[str, Row]]:
    """Return the tables of options in a section, each by the names of its options."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for table in section.split(HEADER)[1:]:
        lines = [line for line in table.split("\n\n")[0].splitlines() if line.startswith("| `")]
        cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        found.append({re.findall(r"`(\w+)`", name)[0]: Row(kind.strip("`"), *rest) for name, kind, *rest in cells})
    return found


def options_of_modules() -> dict[str, list[Option]]:
    """Return the options of all modules by name; some modules share a name."""
    found: dict[str, list[Option]] = {}
    for entry in catalogue.ENTRIES.values():
        for option in entry.options:
            found.setdefault(option.name, []).append(option)
    return found


CALL, ADAPTER, GENERATION, MANY = tables_under("Options of a call")
(MODEL,) = tables_under("Models")
COMPILATION, EVALUATION = tables_under("Optimising")
(MODULES,) = tables_under("Modules")


CHECKED = {
    "a call": (CALL, PROGRAM_CALL_OPTIONS),
    "a generation": (GENERATION, GENERATION_SETTINGS),
    "streams and batches": (MANY, STREAM_OPTIONS | BATCH_OPTIONS),
    "a model": (MODEL, configuration.MODEL_OPTIONS.without(*GENERATION_SETTINGS)),
    "a compilation": (COMPILATION, COMPILE_OPTIONS),
    "an evaluation": (EVALUATION, EVALUATION_OPTIONS.without(*BATCH_OPTIONS)),
}


@pytest.mark.parametrize(("table", "vocabulary"), CHECKED.values(), ids=CHECKED)
def test_table_has_the_options_of_its_vocabulary(table: dict[str, Row], vocabulary: Vocabulary) -> None:
    assert set(table) == set(vocabulary)
    for name, option in vocabulary.items():
        check(table[name], option)


def test_table_of_modules_has_the_options_of_all_modules() -> None:
    options = options_of_modules()
    # `of` is the module that a module runs; it is read apart from the options.
    assert set(MODULES) == {*options, "of"}
    for name, same_name in options.items():
        for option in same_name:
            check(MODULES[name], option)


def check(row: Row, option: Option) -> None:
    """Check that a row has an option's type, default and bounds."""
    described = option.describe()
    assert row.type == described["type"], option.name
    if option.required:
        assert row.default == "required", option.name
    elif option.default is not None:
        shown = _SHOWN.get(option.default) if isinstance(option.default, bool) else str(option.default)
        assert str(shown) in re.findall(r"[\w.]+", row.default.replace(",", "")), option.name
    bounds = [described.get("maximum"), described.get("minimum") if described.get("maximum") is not None else None]
    numbers = re.findall(r"-?\d+", row.meaning.replace(",", ""))
    for bound in bounds:
        # 0 and 1 are what anybody expects.
        assert bound in (None, 0, 1) or str(bound) in numbers, f"{option.name}: {bound}"


def test_adapters_options_are_in_the_table() -> None:
    assert set(ADAPTER) == {"json_fallback", "extraction_model", "native_function_calling"}
