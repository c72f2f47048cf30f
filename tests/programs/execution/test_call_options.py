"""An unknown option is an error if it is misspelt or the call is strict, and otherwise a warning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.execution.batch import BATCH_OPTIONS
from erlport_bridge.programs.execution.call_inputs import read_inputs
from erlport_bridge.programs.execution.call_options import COMMON_OPTIONS, PROGRAM_CALL_OPTIONS, check_spelling
from erlport_bridge.programs.execution.call_request import read_module_call, read_program_call
from erlport_bridge.programs.models import GENERATION_SETTINGS
from erlport_bridge.programs.text import misspelt

QA = "question -> answer"


def refused(module: Any, opts: dict[str, Any]) -> OperationError:
    with pytest.raises(OperationError) as caught:
        read_module_call(module, QA, opts, BATCH_OPTIONS)
    assert caught.value.kind == "input"
    return caught.value


def mistakes(name: str) -> set[str]:
    """Return the names with one mistake: a letter is missing, doubled or wrong, or two letters are swapped."""
    found = set()
    for index in range(len(name)):
        found |= {name[:index] + name[index + 1 :], name[:index] + name[index] + name[index:]}
        found.add(name[:index] + "q" + name[index + 1 :])
        if index:
            found.add(name[: index - 1] + name[index] + name[index - 1] + name[index + 1 :])
    return found - {name}


@pytest.mark.parametrize(
    "name", sorted({*COMMON_OPTIONS.offered, *GENERATION_SETTINGS, *BATCH_OPTIONS, "max_iters", "pool"} - {"n"})
)
def test_every_single_mistake_in_an_option_is_refused_with_the_right_name(name: str) -> None:
    known = {*COMMON_OPTIONS, *GENERATION_SETTINGS, *BATCH_OPTIONS, "max_iters", "tools", "demos", "parse_retries"}
    for wrong in sorted(mistakes(name) - known):
        if len(wrong) < 2:
            continue
        error = refused("dspy.ReAct", {wrong: 1})
        assert f'unknown option "{wrong}" at opts (did you mean "' in error.message, wrong
        assert error.facts["path"] == f"opts.{wrong}"
        # Two names may be equally near, such as top_p and stop.
        assert misspelt(wrong, [name]) == name


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("timout", "timeout"),
        ("ml", "lm"),
        ("pol", "pool"),
        ("temprature", "temperature"),
        ("model", "lm"),
        ("session", "session_id"),
    ],
)
def test_misspelt_option_is_an_error_with_the_right_name(wrong: str, right: str) -> None:
    assert refused("dspy.Predict", {wrong: 1}).message == f'unknown option "{wrong}" at opts (did you mean "{right}"?)'


@pytest.mark.parametrize("other", ["max_hops", "k", "x", "retriever", "verbose", "num_threads"])
def test_another_word_is_a_warning(other: str) -> None:
    request = read_module_call("dspy.ChainOfThought", QA, {other: 3})
    assert request.options.warnings == (f'dspy.ChainOfThought takes no option "{other}"; it was ignored',)


@pytest.mark.parametrize("name", ["cache", "api_key", "fallbacks", "headers"])
def test_the_warning_about_an_option_of_a_model_says_where_it_belongs(name: str) -> None:
    (warning,) = read_module_call("dspy.Predict", QA, {name: "x"}).options.warnings
    assert warning.endswith(f"it was ignored: a model takes it, as lm: %{{provider: …, {name}: …}}")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("optimiser", "optimizer"),
        ("optimizers", "optimizer"),
        ("session", "session_id"),
        ("requestid", "request_id"),
        ("pools", "pool"),
        ("model", "lm"),
        ("metrics", "metric"),
        ("progres", "progress"),
    ],
)
def test_a_misspelt_option_of_many_calls_has_its_right_name(wrong: str, right: str) -> None:
    """`optimiser` was told that an optimizer is needed, and only the optimizer's own options were suggested."""
    with pytest.raises(OperationError, match=f'unknown option "{wrong}" at opts .did you mean "{right}"'):
        check_spelling({wrong: 1, "timeout": 5, "temperature": 1}, ["optimizer", "metric"])


@pytest.mark.parametrize(
    ("module", "wrong", "right"),
    [
        ("dspy.BestOfN", "reward_fn", "reward"),
        ("dspy.BestOfN", "module", "of"),
        ("dspy.Predict", "num_threads", "max_concurrency"),
    ],
)
def test_an_option_by_the_name_of_dspy_has_its_name_here(module: str, wrong: str, right: str) -> None:
    assert refused(module, {wrong: 1}).message == f'unknown option "{wrong}" at opts (did you mean "{right}"?)'


def test_demos_are_a_list_of_maps_and_not_one_map() -> None:
    """The error was about a tuple at opts.demos[0]."""
    error = refused("dspy.Predict", {"demos": [("question", "a"), ("answer", "b")]})
    assert error.message.startswith("expected a list of maps at opts.demos, got [")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dspy.JSONAdapter", '; its name here is "json"'),
        ("XMLAdapter", '; its name here is "xml"'),
        ("TwoStepAdapter", '; its name here is "two_step"'),
        ("jsn", ' (did you mean "json"?)'),
        ("BAMLAdapter", "; known here: chat"),
    ],
)
def test_an_adapter_by_the_name_of_its_class_has_its_name_here(name: str, hint: str) -> None:
    message = refused("dspy.Predict", {"adapter": name}).message
    assert message.startswith(f'unknown adapter "{name}" at opts.adapter{hint}')


def test_an_option_of_other_functions_of_elixir_is_no_misspelling_of_itself() -> None:
    """`unknown option "progress" at opts (did you mean "progress"?)`."""
    (warning,) = read_module_call("dspy.Predict", QA, {"progress": True}).options.warnings
    assert warning == 'dspy.Predict takes no option "progress"; it was ignored'


@pytest.mark.parametrize("opts", [{"max_hops": 3}, {"tools": ["today"]}, {"version": 2}])
def test_strict_call_refuses_what_would_be_ignored(opts: dict[str, Any]) -> None:
    read_module_call("dspy.ChainOfThought", QA, {**opts, "strict": False})
    (name,) = opts
    error = refused("dspy.ChainOfThought", {**opts, "strict": True})
    assert error.message.startswith(f'unknown option "{name}" at opts; dspy.ChainOfThought takes no such option, and ')
    assert "temperature" in error.message


@pytest.mark.parametrize(
    "read", [lambda opts: read_module_call("dspy.Predict", QA, opts), read_program_call], ids=["a module", "a program"]
)
def test_strict_call_offers_what_a_caller_may_write(read: Callable[[dict[str, Any]], object]) -> None:
    """It offered `begins_trace, budgets, called_at_us, …` too, which only DSPex.Python writes."""
    with pytest.raises(OperationError) as caught:
        read({"strict": True, "zzzz": 1})
    offered = caught.value.message.partition("; it takes ")[2].split(", ")
    assert {"timeout", "lm", "temperature", "traceparent"} <= set(offered)
    assert {name for name, option in PROGRAM_CALL_OPTIONS.items() if option.is_internal} == set(INTERNAL)
    assert not set(INTERNAL) & set(offered)


def test_strict_call_does_not_offer_what_its_module_ignores() -> None:
    message = refused("dspy.Predict", {"strict": True, "tools": ["today"]}).message
    assert "tools" not in message.partition("; it takes ")[2].split(", ")


INTERNAL = ("begins_trace", "budgets", "called_at_us", "caller_context", "redact", "repetition", "resolver")


@pytest.mark.parametrize("name", INTERNAL)
def test_an_internal_option_is_never_what_was_meant(name: str) -> None:
    (warning,) = read_program_call({name[:-1]: 1}).options.warnings
    assert warning == f'a stored program takes no option "{name[:-1]}"; it was ignored'


def test_strict_call_takes_options_of_its_module() -> None:
    opts = {"strict": True, "max_iters": 3, "tools": ["today"], "temperature": 0.5, "timeout": 1_000}
    assert read_module_call("dspy.ReAct", QA, opts).options.warnings == ()


def test_strict_call_of_a_stored_program_refuses_unknown_options() -> None:
    assert read_program_call({"max_hops": 3}).options.warnings
    with pytest.raises(OperationError, match="a stored program takes no such option"):
        read_program_call({"max_hops": 3, "strict": True})
    with pytest.raises(OperationError, match='did you mean "vector"'):
        read_program_call({"vectr": [1.0]})


@pytest.mark.parametrize("name", sorted(PROGRAM_CALL_OPTIONS))
def test_options_of_a_call_are_no_misspelling_of_each_other(name: str) -> None:
    assert misspelt(name, {*PROGRAM_CALL_OPTIONS, *GENERATION_SETTINGS} - {name}) in (None, "stop", "top_p", "tools")


@pytest.mark.parametrize("name", ["timeout", "lm", "temperature"])
def test_option_among_the_inputs_is_an_error_that_says_where_it_belongs(name: str) -> None:
    stage = read_module_call("dspy.Predict", QA, {}).stage
    with pytest.raises(OperationError, match="options are the argument after the inputs") as caught:
        read_inputs((stage,), stage.spec, {"question": "x", name: 1})
    assert caught.value.facts["path"] == f"inputs.{name}"


def test_input_may_have_the_name_of_an_option() -> None:
    stage = read_module_call("dspy.Predict", "question, timeout: int -> answer", {}).stage
    assert read_inputs((stage,), stage.spec, {"question": "x", "timeout": 1}) == {"question": "x", "timeout": 1}
