"""Take the models out of a program's spec, since their keys must not be stored, and put them back when it is loaded.

A model stands in the map of a stage, as ``lm`` or in ``lms``, or is an option of a module, as ``sub_lm``. A stored spec
has the text ``"given"`` in its place. It is given anew by the name of its stage or predictor (``reply.extract``), or as
``reply.sub_lm``; ``sub_lm`` alone means that of every stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import from_option
from erlport_bridge.programs.modules import ModelOption, catalogue
from erlport_bridge.programs.pipelines.needs import spec_is_map
from erlport_bridge.programs.text import arguments, quoted, suggestion, text_of

#: What stands in a stored spec in place of a model.
GIVEN: Final = "given"

_OF_STAGE: Final = "lm"
_OF_PREDICTORS: Final = "lms"
_OPTIONS: Final = frozenset(
    option.name for entry in catalogue.MODULES.values() for option in entry.options if isinstance(option, ModelOption)
)

# Returns what replaces a model. It is called with the names by which a caller may give the model, the exact one first,
# with its value, and with its path.
_Replace = Callable[[tuple[str, ...], Any, str], Any]


def without_models(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with ``"given"`` in place of each model."""
    return _replaced(spec, lambda _names, _model, _path: GIVEN)


def with_models(spec: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored spec with models in their places.

    Args:
        spec: A spec that :func:`without_models` returned.
        models: The models as callers write them, by their names.

    Raises:
        OperationError: Of kind ``store``: the spec contains a model. Of kind ``input``: a model is missing, or has no
            place.
    """
    places: dict[str, str] = {}

    def replace(names: tuple[str, ...], value: Any, path: str) -> Any:
        if text_of(value) != GIVEN:
            message = f"expected no model in a stored program, got one at text.{path}; give load_program the option lms"
            raise OperationError("store", message, path="text")
        name = next((name for name in names if name in models), names[0])
        places.setdefault(name, path)
        return models.get(name)

    found = _replaced(spec, replace)
    for name in models:
        if name not in places:
            taken = ", ".join(map(quoted, places)) or "none"
            hint = suggestion(name, [place for place in places if place not in models])
            message = f"unknown model {quoted(name)} at opts.lms{hint}; the program needs {taken}"
            raise OperationError("input", message, path=f"opts.lms.{name}")
    for name, path in places.items():
        where = f"opts.lms.{name}"
        if name not in models:
            message = f"the program has a model of its own at {path}, which is not stored; give it anew at {where}"
            raise OperationError("input", message, path=where)
        # Read here for its errors, which name the place where the caller wrote it; in its place it is read again.
        from_option(models[name], where)
    return found


def models_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the models within a spec as they are written, by their paths."""
    found: dict[str, Any] = {}

    def collect(_names: tuple[str, ...], value: Any, path: str) -> Any:
        found[path] = value
        return value

    _replaced(spec, collect)
    return found


def with_models_at(spec: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec that :func:`without_models` returned with the models that :func:`models_of` has found."""
    return _replaced(spec, lambda _names, value, path: models.get(path, value))


def _replaced(spec: Mapping[str, Any], replace: _Replace) -> dict[str, Any]:
    modules = spec.get("modules")
    if not isinstance(modules, list):
        return dict(spec)
    stages = [_of_stage(item, f"spec.modules[{index}]", replace) for index, item in enumerate(modules)]
    return {**spec, "modules": stages}


def _of_stage(item: Any, path: str, replace: _Replace) -> Any:
    if not spec_is_map(item):
        return item
    stage = text_of(arguments.options(item, path).get("name"))
    found = _of_module(item, stage, path, replace)
    if found.get(_OF_STAGE) is not None:
        # A stage without a name that has a model is refused when its spec is read.
        found[_OF_STAGE] = replace((str(stage),), found[_OF_STAGE], f"{path}.{_OF_STAGE}")
    if spec_is_map(found.get(_OF_PREDICTORS)):
        where = f"{path}.{_OF_PREDICTORS}"
        found[_OF_PREDICTORS] = {
            name: None if model is None else replace((f"{stage}.{name}",), model, f"{where}.{name}")
            for name, model in arguments.options(found[_OF_PREDICTORS], where).items()
        }
    return found


def _of_module(item: Any, stage: str | None, path: str, replace: _Replace) -> dict[str, Any]:
    found = arguments.options(item, path)
    for name, value in found.items():
        if name in _OPTIONS and value is not None:
            names = (name,) if stage is None else (f"{stage}.{name}", name)
            found[name] = replace(names, value, f"{path}.{name}")
        elif name in ("of", "options") and spec_is_map(value):
            found[name] = _of_module(value, stage, f"{path}.{name}", replace)
    return found
