"""The catalogue contains the modules of the installed DSPy, with their defaults."""

from __future__ import annotations

import inspect

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.modules import catalogue
from erlport_bridge.programs.modules.catalogue import ENTRIES, MODULES


def modules_of_dspy() -> dict[str, type[dspy.Module]]:
    return {
        f"dspy.{name}": member
        for name, member in vars(dspy).items()
        if isinstance(member, type) and issubclass(member, dspy.Module) and member is not dspy.Module
    }


def test_every_module_of_the_installed_dspy_is_known() -> None:
    assert modules_of_dspy().keys() - MODULES.keys() == set()


def test_every_module_that_is_known_is_one_of_dspy() -> None:
    assert all(hasattr(dspy, name.removeprefix("dspy.")) for name in ENTRIES)


@pytest.mark.parametrize("name", sorted(modules_of_dspy()))
def test_defaults_are_those_of_dspy(name: str) -> None:
    parameters = inspect.signature(modules_of_dspy()[name].__init__).parameters
    for option in MODULES[name].options:
        parameter = parameters.get(option.name)
        if parameter is not None and parameter.default is not parameter.empty:
            assert option.default == parameter.default, option.name


@pytest.mark.parametrize("name", ["dspy.settings", "dspy.Module", "dspy", "os.system", "builtins.eval", "dspy.predict"])
def test_nothing_else_is_found_by_its_name(name: str) -> None:
    with pytest.raises(OperationError) as caught:
        catalogue.find_module(name)
    assert caught.value.kind == "module_not_found"


def test_module_of_another_operation_is_described_with_it() -> None:
    assert catalogue.find_entry("dspy.Parallel").describe()["operation"] == "execute_batch"
    with pytest.raises(OperationError, match="call execute_batch instead"):
        catalogue.find_module("dspy.Parallel")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dspy.CoT", ' (did you mean "dspy.ChainOfThought"?)'),
        ("PoT", ' (did you mean "dspy.ProgramOfThought"?)'),
        ("Elixir.Dspy.Predict", ' (did you mean "dspy.Predict"?)'),
        ("question -> answer", ", which is a signature; the module comes before it: "),
        ("xyz", "; known modules: dspy.Predict, "),
    ],
)
def test_an_unknown_name_is_told_what_may_be_meant(name: str, hint: str) -> None:
    with pytest.raises(OperationError) as caught:
        catalogue.find_module(name)
    assert caught.value.message.startswith(f'unknown module "{name}"{hint}')


@pytest.mark.parametrize("name", [None, 7, ["dspy.Predict"], ("dspy.Predict", "q -> a")])
def test_what_is_no_name_is_told_how_a_module_is_written(name: object) -> None:
    with pytest.raises(OperationError) as caught:
        catalogue.find_module(name, "spec.modules[0]")
    assert caught.value.message.startswith('expected the name of a module, such as "dspy.Predict", or a map such as %{')
    assert "at spec.modules[0], got " in caught.value.message
