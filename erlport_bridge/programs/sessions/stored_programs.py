"""Write the versions of programs and the models of sessions as rows of the store, without keys, and read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from erlport_bridge.programs.models import LanguageModel, from_option, recipes
from erlport_bridge.programs.pipelines import with_models_at
from erlport_bridge.programs.sessions import stored_form
from erlport_bridge.programs.sessions.neighbours import Neighbours
from erlport_bridge.programs.sessions.program import Program
from erlport_bridge.programs.sessions.registry import Sessions
from erlport_bridge.programs.values import media, plain
from erlport_bridge.store import ProgramRow, VersionRow, terms

#: Reads the examples from which a program learns at each call.
ReadNeighbours = Callable[[object, Program], Neighbours]


def model_text(model: LanguageModel, default: LanguageModel | None) -> str:
    """Return a model as JSON, without keys; the port's ``default`` model has a key that needs no other place."""
    return terms.dumps(_keyless(model, default))


def read_model(text: str | None, default: LanguageModel | None) -> LanguageModel | None:
    """Return the model that :func:`model_text` has written; its key may be missing."""
    return None if text is None else _model(terms.loads(text), default)


def version_row(program: Program, default: LanguageModel | None) -> VersionRow:
    """Return a version of a program as a row.

    Raises:
        EncodeError: Its spec, or what it has learned, contains what has no term.
    """
    own = None if default is None else default.configuration
    body = {
        "program": stored_form.terms_of(program),
        "model": _keyless(program.model, default),
        "models": {path: recipes.keyless(one, own) for path, one in program.models.items()},
    }
    return VersionRow(program.version, terms.dumps(plain(body)), terms.dumps(plain(program.describe())))


def read_version(
    row: ProgramRow,
    version: VersionRow,
    sessions: Sessions,
    default: LanguageModel | None,
    read_neighbours: ReadNeighbours,
) -> Program:
    """Return the version of a program that :func:`version_row` has written.

    Raises:
        OperationError: Of kind ``store``: it is no such version. Otherwise as :meth:`.Sessions.build_program`.
    """
    body: Mapping[str, Any] = terms.loads(version.body)
    stored = stored_form.read(body["program"])
    own = None if default is None else default.configuration
    # The media in its examples were allowed when they came.
    media.allow_urls(True)
    program = sessions.build_program(
        with_models_at(stored.spec, {path: recipes.complete(one, own) for path, one in body["models"].items()}),
        row.session_id,
        model=_model(body["model"], default),
        known=stored.learned,
        compiled=stored.compiled,
        read_neighbours=None if stored.neighbours is None else partial(read_neighbours, stored.neighbours),
    )
    program.identify(row.id)
    program.version, program.row = version.number, row.version
    return program


def is_portable(program: Program, session_model: LanguageModel | None, default: LanguageModel | None) -> bool:
    """Return whether another process that reads a program from the store finds the models that it has here."""
    own = None if default is None else default.configuration
    models = [model.configuration for model in (program.model, session_model) if model is not None]
    return all(recipes.is_whole(model, own) for model in (*models, *program.models.values()))


def _keyless(model: LanguageModel | None, default: LanguageModel | None) -> Any:
    own = None if default is None else default.configuration
    return None if model is None else plain(recipes.keyless(model.configuration, own))


def _model(recipe: Any, default: LanguageModel | None) -> LanguageModel | None:
    if recipe is None:
        return None
    return from_option(recipes.complete(recipe, None if default is None else default.configuration), "the store")
