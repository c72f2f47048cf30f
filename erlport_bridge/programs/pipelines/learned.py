"""Read, apply and describe what a program has learned: the instructions and demos of its predictors, as data.

A predictor is a single question that a program asks its model. It has the name of its stage (``search.predict``), or
that of its place in the program (``modules[0].predict``) if the stage has none. All that an optimizer changes is here,
so that a program can be compiled, stored and loaded, and no object of DSPy has to outlive the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import dspy
import pydantic

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.modules import Application
from erlport_bridge.programs.pipelines.pipeline import HISTORY_FIELD, Pipeline
from erlport_bridge.programs.text import arguments, quoted
from erlport_bridge.programs.values import convert, plain
from erlport_bridge.term import shown

_KEYS: Final = frozenset({"instructions", "demos"})
_MAX_INSTRUCTIONS_CHARACTERS: Final = 1_000_000
_MAX_DEMOS: Final = 1_000


class LearnedPredictor(NamedTuple):
    """What one predictor has learned.

    Attributes:
        instructions: The task description in its prompt.
        demos: The few-shot examples in its prompt, as terms; each has some of the fields of the signature.
    """

    instructions: str
    demos: tuple[Mapping[str, Any], ...]


#: What the predictors of a program have learned, by their names.
Learned = Mapping[str, LearnedPredictor]


def learned_of(module: dspy.Module) -> dict[str, LearnedPredictor]:
    """Return the instructions and demos of a module's predictors.

    Raises:
        EncodeError: A value in a demo cannot be encoded as a term.
    """
    return {
        name: LearnedPredictor(
            predictor.signature.instructions,
            tuple(_demo_term(demo, predictor, f"{name}.demos[{index}]") for index, demo in enumerate(predictor.demos)),
        )
        for name, predictor in module.named_predictors()
    }


def teach(module: Pipeline, learned: Learned) -> None:
    """Set the instructions and demos of a module's predictors; the module is modified in place, so must not be shared.

    Raises:
        OperationError: Of kind ``input``: a demo does not have the fields or types of its signature.
    """
    free = _of_application(module)
    for name, predictor in module.named_predictors():
        if name in learned:
            known = learned[name]
            predictor.signature = predictor.signature.with_instructions(known.instructions)
            predictor.demos = [_demo(demo, predictor, f"{name}.demos[{i}]", free) for i, demo in enumerate(known.demos)]


def describe(learned: Learned) -> dict[str, Any]:
    """Return what was learned as a term that :func:`read` reads."""
    return {
        name: {"instructions": known.instructions, "demos": [dict(demo) for demo in known.demos]}
        for name, known in learned.items()
    }


def read(value: object, module: Pipeline, path: str) -> dict[str, LearnedPredictor]:
    """Read a term that :func:`describe` returned, for a module with these predictors.

    Raises:
        OperationError: Of kind ``input``, with the path: an unknown predictor, or a demo of other fields or types.
    """
    given = _by_name(arguments.options(value, path), module, path)
    predictors = dict(module.named_predictors())
    arguments.only(given, predictors, "predictor", path)
    free = _of_application(module)
    return {name: _read_predictor(item, predictors[name], f"{path}.{name}", free) for name, item in given.items()}


def _by_name(given: Mapping[str, Any], module: Pipeline, path: str) -> dict[str, Any]:
    """Return what predictors have learned by their names, also if a text has the place of a named stage instead."""
    names = module.names_by_place()
    named: dict[str, Any] = {}
    for key, item in given.items():
        name = names.get(key, key)
        if name in named:
            message = f"expected the predictor {quoted(name)} once at {path}, got it as {quoted(key)} too"
            raise OperationError("input", message, path=path)
        named[name] = item
    return named


def _of_application(module: dspy.Module) -> frozenset[int]:
    """Return the ids of the predictors of application modules, which pass to their fields what they like."""
    own = (inner for _, inner in module.named_sub_modules(Application))
    return frozenset(id(predictor) for inner in own for predictor in inner.predictors())


def _read_predictor(value: object, predictor: dspy.Predict, path: str, free: frozenset[int]) -> LearnedPredictor:
    given = arguments.options(value, path)
    arguments.only(given, _KEYS, "key of a predictor", path)
    instructions = arguments.text(given.get("instructions"), f"{path}.instructions")
    if len(instructions) > _MAX_INSTRUCTIONS_CHARACTERS:
        message = f"expected at most {_MAX_INSTRUCTIONS_CHARACTERS} characters at {path}.instructions"
        raise OperationError("input", f"{message}, got {len(instructions)}", path=f"{path}.instructions")
    demos = given.get("demos", [])
    if not isinstance(demos, list) or len(demos) > _MAX_DEMOS:
        message = f"expected a list of at most {_MAX_DEMOS} demos at {path}.demos, got {shown(demos)}"
        raise OperationError("input", message, path=f"{path}.demos")
    read_demos = []
    for index, demo in enumerate(demos):
        where = f"{path}.demos[{index}]"
        fields = arguments.options(demo, where)
        arguments.only(fields, predictor.signature.fields, "field", where)
        # The conversion finds a wrong type now, instead of at the first call.
        read_demos.append(_demo_term(_demo(fields, predictor, where, free), predictor, where))
    return LearnedPredictor(instructions, tuple(read_demos))


def _demo_term(demo: Mapping[str, Any], predictor: dspy.Predict, path: str) -> dict[str, Any]:
    """Return the fields of a demo that its predictor has; an example may have more fields, for its metric."""
    fields = predictor.signature.fields
    return {
        name: plain(value, f"{path}.{name}") for name, value in demo.items() if name in fields and name != HISTORY_FIELD
    }


def _demo(demo: Mapping[str, Any], predictor: dspy.Predict, path: str, free: frozenset[int]) -> dspy.Example:
    fields = predictor.signature.fields
    free_names = predictor.signature.input_fields if id(predictor) in free else {}
    values = {
        name: _demo_value(fields[name].annotation, value, f"{path}.{name}", is_free=name in free_names)
        for name, value in demo.items()
    }
    return dspy.Example(**values)


def _demo_value(annotation: Any, value: Any, path: str, *, is_free: bool) -> Any:
    # The text comes from a run of the program. An agent's trajectory contains section headers, which `convert` would
    # remove, as it does from the text of callers.
    if annotation is str and isinstance(value, str):
        return str(value)
    try:
        return convert(annotation, value, path)
    except OperationError:
        if not is_free:
            raise
        # A module of the application may pass what it likes to a predictor, such as a list to a field of text.
        return convert(Any, value, path)
    except (KeyError, TypeError, AttributeError):
        # The type is a class of the application.
        try:
            return pydantic.TypeAdapter(annotation).validate_python(value)
        except (pydantic.ValidationError, pydantic.PydanticSchemaGenerationError) as error:
            message = f"expected a value of the type {annotation} at {path}, got {shown(value)}"
            raise OperationError("input", message, path=path) from error
