"""The registry of one port: its default model, its sessions, and the programs that they hold.

The registry is bounded: a session that is idle for too long is closed, and a program beyond the maximum is refused. The
limits are environment variables of the port: ``DSPEX_MAX_PROGRAMS``, ``DSPEX_MAX_CONVERSATIONS`` and
``DSPEX_SESSION_IDLE_MS``.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.execution import META, TurnFields
from erlport_bridge.programs.models import GENERATION_SETTINGS, LanguageModel, from_option, generation_setting
from erlport_bridge.programs.pipelines import (
    HISTORY_FIELD,
    Learned,
    Needs,
    Pipeline,
    Source,
    Stage,
    Tools,
    Voting,
    learned,
    pipeline,
    storable,
    voting,
    with_names,
    with_tools,
)
from erlport_bridge.programs.sessions.conversations import (
    DEFAULT_MAX_CONVERSATIONS,
    Conversation,
    Conversations,
    Turn,
)
from erlport_bridge.programs.sessions.neighbours import Neighbours
from erlport_bridge.programs.signatures import SignatureSpec, parse_signature
from erlport_bridge.programs.text import arguments, quoted, suggestion, text_of
from erlport_bridge.programs.values import convert
from erlport_bridge.term import shown

DEFAULT_MAX_PROGRAMS: Final = 1_000
DEFAULT_SESSION_IDLE_MS: Final = 3_600_000
#: The maximum number of versions that vote together.
MAX_MEMBERS: Final = 100

_SPEC_KEYS: Final = frozenset(["signature", "instructions", "modules", "outputs", "history", "lm", "config"])
_DEFAULT_MODULES: Final = ["dspy.Predict"]


@dataclass
class Program:
    """A stored program: stages with an id, and what they have learned.

    Attributes:
        outputs: The fields that it returns, each with its source; ``None``: all fields of its stages.
        whole: The signature of the whole program: its inputs and its outputs.
        model: The program's own model; ``None``: the model of its session.
        settings: Generation settings for all its calls.
        keeps_history: Whether the program keeps conversations, each by the id that a call names.
        source: The spec as the caller wrote it, without its model.
        learned: What its predictors have learned; ``None``: nothing.
        compiled: The optimizer's report, or ``None``.
        neighbours: The examples from which each call learns anew; ``None``: no such examples.
    """

    id: str
    session_id: str
    stages: tuple[Stage, ...]
    outputs: tuple[tuple[str, Source], ...] | None
    whole: SignatureSpec
    model: LanguageModel | None
    settings: Mapping[str, Any]
    keeps_history: bool
    source: Mapping[str, Any] = field(default_factory=dict)
    learned: Learned | None = None
    compiled: Mapping[str, Any] | None = None
    neighbours: Neighbours | None = None
    version: int = 1
    calls: int = 0
    _learned_module: Pipeline | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def asked(self) -> SignatureSpec:
        """The signature as callers see it: without the history, which the program adds itself."""
        inputs = tuple(item for item in self.whole.inputs if not self.keeps_history or item.name != HISTORY_FIELD)
        return SignatureSpec(inputs, self.whole.outputs, self.whole.instructions)

    def module(self) -> Pipeline:
        """Return the module that runs the program."""
        if not self.learned:
            return pipeline.built(self.stages, self.outputs)
        if self._learned_module is not None:
            return self._learned_module
        module = _new_module(self.stages, self.outputs, self.learned)
        learned.teach(module, self.learned)
        if all(stage.is_shared for stage in self.stages):
            self._learned_module = module
        return module

    def with_learned(self, knows: Learned) -> Program:
        """Return the program with what was learned for one call."""
        return replace(self, learned=knows, _learned_module=None, _lock=threading.Lock())

    @property
    def needs(self) -> Needs:
        """What each call must bring."""
        return Needs.of(self.stages, (self.compiled or {}).get("tools", ()))

    def with_given(self, tools: Tools, functions: Mapping[str, str]) -> Program:
        """Return the program with what a call brings: its tools, in their places.

        Raises:
            OperationError: Of kind ``input``: the program needs more, or has no place for a tool.
        """
        self.needs.check(tools, functions)
        if not tools:
            return self
        return replace(self, stages=with_tools(self.stages, tools), _learned_module=None, _lock=threading.Lock())

    def check_history(self, path: str) -> None:
        """Check that the program keeps conversations.

        Raises:
            OperationError: Of kind ``input``, with the path.
        """
        if not self.keeps_history:
            message = f"program {quoted(self.id)} keeps no conversations; create it with history: true"
            raise OperationError("input", message, path=path)

    @property
    def turn_fields(self) -> TurnFields:
        """What a turn of its conversations may hold."""
        return TurnFields.of(self.stages, self.asked)

    def with_history(self, values: Mapping[str, Any], turns: Iterable[Turn] = ()) -> dict[str, Any]:
        """Return the inputs of a call with the turns of its conversation, if the program keeps conversations."""
        if not self.keeps_history:
            return dict(values)
        return {HISTORY_FIELD: dspy.History(messages=[dict(turn) for turn in turns]), **values}

    def record(self, values: Mapping[str, Any], prediction: Mapping[str, Any], told: Conversation | None) -> None:
        """Count a successful call, and add it to its conversation."""
        with self._lock:
            self.calls += 1
        if told is not None:
            given = {name: value for name, value in values.items() if name != HISTORY_FIELD}
            told.append(given | self._outputs(prediction))

    def _outputs(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of a prediction, which is a term, as the values that DSPy takes."""
        outputs = {}
        if not self.whole.outputs:  # a module of the application that declares none
            return {name: value for name, value in prediction.items() if name != META}
        for item in self.whole.outputs:
            if item.name in prediction:
                value = prediction[item.name]
                try:
                    outputs[item.name] = None if value is None else convert(item.annotation, value, item.name)
                except OperationError:  # a module of the application may give what it did not declare
                    outputs[item.name] = value
        return outputs

    def describe(self) -> dict[str, Any]:
        """Return the program as a term."""
        return {
            "id": self.id,
            "session_id": self.session_id,
            "version": self.version,
            "signature": self.asked.text,
            "stages": [stage.describe() for stage in self.stages],
            "outputs": {name: source.text for name, source in self.outputs} if self.outputs else None,
            "history": self.keeps_history,
            "model": self.model.model if self.model else None,
            "config": dict(self.settings),
            "calls": self.calls,
            "compiled": dict(self.compiled) if self.compiled is not None else None,
            "needs": self.needs.describe(),
        }


@dataclass
class Session:
    """A set of programs with a default model.

    Attributes:
        programs: The newest version of each program, by id.
        versions: All versions of each program, by id and version number.
    """

    id: str
    model: LanguageModel | None = None
    programs: dict[str, Program] = field(default_factory=dict)
    versions: dict[str, dict[int, Program]] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    used_at: float = field(default_factory=time.monotonic)

    def describe(self) -> dict[str, Any]:
        """Return the session as a term; times are in milliseconds."""
        return {
            "id": self.id,
            "programs": list(self.programs),
            "model": self.model.model if self.model else None,
            "created_at_ms": round(self.created_at * 1000),
            "idle_ms": round((time.monotonic() - self.used_at) * 1000),
        }


class Sessions:
    """The registry of one port.

    Args:
        max_programs: The maximum number of programs in all sessions together, and of sessions.
        session_idle_ms: How long a session stays open without being used.
        max_conversations: The maximum number of conversations of all programs together.

    Attributes:
        conversations: The conversations of all programs.
    """

    def __init__(
        self,
        *,
        max_programs: int = DEFAULT_MAX_PROGRAMS,
        session_idle_ms: int = DEFAULT_SESSION_IDLE_MS,
        max_conversations: int = DEFAULT_MAX_CONVERSATIONS,
    ) -> None:
        self._max_programs = max_programs
        self._session_idle_s = session_idle_ms / 1000
        self.conversations = Conversations(max_conversations, self._session_idle_s)
        self._started_at = time.time()
        self._default_model: LanguageModel | None = None
        self._sessions: dict[str, Session] = {}
        # Protects the dict of sessions and the dicts of programs; not held while a module is built or a model called.
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> Sessions:
        """Return a registry with the limits of the environment."""
        return cls(
            max_programs=_limit("DSPEX_MAX_PROGRAMS", DEFAULT_MAX_PROGRAMS),
            session_idle_ms=_limit("DSPEX_SESSION_IDLE_MS", DEFAULT_SESSION_IDLE_MS),
            max_conversations=_limit("DSPEX_MAX_CONVERSATIONS", DEFAULT_MAX_CONVERSATIONS),
        )

    def configure(self, model: LanguageModel, session_id: str | None) -> None:
        """Set the default model of the port, or that of one session, which is opened if it does not exist."""
        if session_id is None:
            self._default_model = model
            return
        with self._lock:
            self._close_idle()
            self._opened(session_id).model = model

    def model_for(self, session_id: str | None, *preferred: LanguageModel | None) -> LanguageModel:
        """Return the first model among ``preferred``, the session's model and the port's default model.

        Raises:
            OperationError: Of kind ``session_not_found`` or ``lm_not_configured``.
        """
        session = self.find(session_id) if session_id is not None else None
        for model in (*preferred, session.model if session else None, self._default_model):
            if model is not None:
                return model
        raise OperationError(
            "lm_not_configured",
            "no language model is configured on this port; call configure_lm first, such as "
            'configure_lm("openai", %{model: "gpt-4o-mini"}) or configure_lm(:embedded, %{}), or give the option lm',
        )

    def default_model(self) -> LanguageModel | None:
        """Return the port's default model; ``None`` if none is configured."""
        return self._default_model

    def find(self, session_id: str, *, is_used: bool = True) -> Session:
        """Return a session; unless ``is_used`` is false, this counts as a use that keeps it open.

        Raises:
            OperationError: Of kind ``session_not_found``.
        """
        with self._lock:
            self._close_idle()
            session = self._sessions.get(session_id)
            if session is None:
                raise OperationError(
                    "session_not_found",
                    f"unknown session {quoted(session_id)}{suggestion(session_id, self._sessions)}; it was never "
                    f"opened, or closed, or idle for more than {self._session_idle_s:g} s; {self._started()}",
                    path="session_id",
                )
            if is_used:
                session.used_at = time.monotonic()
            return session

    def add_program(
        self,
        spec: object,
        session_id: str | None,
        *,
        model: LanguageModel | None = None,
        known: object = None,
        compiled: Mapping[str, Any] | None = None,
        read_neighbours: Callable[[Program], Neighbours] | None = None,
    ) -> Program:
        """Add a program to a session, which is opened if it does not exist; without an id, to a new session.

        Args:
            spec: The spec of the program.
            session_id: The id of the session.
            model: The program's own model, if the spec names none.
            known: What it has learned, as :func:`erlport_bridge.programs.pipelines.learned.describe` returns it.
            compiled: The optimizer's report, or ``None``.
            read_neighbours: Returns the examples from which each call learns, for the new program.
        """
        given: dict[str, Any] = (
            {"signature": spec} if isinstance(spec, str | bytes) or text_of(spec) else arguments.options(spec, "spec")
        )
        arguments.only(given, _SPEC_KEYS, "key", "spec")
        history = arguments.boolean(given.get("history"), "spec.history")
        shared = None
        if given.get("signature") is not None:
            shared = parse_signature(given["signature"], instructions=given.get("instructions"))
        stages, whole = pipeline.read_stages(given.get("modules", _DEFAULT_MODULES), shared, history=history)
        outputs, whole = pipeline.read_outputs(given.get("outputs"), stages, whole)
        if given.get("lm") is not None:
            model = from_option(given["lm"], "spec.lm")
        settings = _settings(given.get("config"))
        # A program that cannot be built is refused here.
        module = pipeline.built(stages, outputs)
        with_tools_of = with_names(stages, _learned_with(compiled))
        knows = _read_learned(known, with_tools_of, outputs, module if with_tools_of == stages else None)
        source = storable({key: value for key, value in given.items() if key != "lm"})
        session_id = session_id or f"session-{secrets.token_hex(6)}"
        program_id = f"program-{secrets.token_hex(6)}"
        program = Program(
            program_id, session_id, stages, outputs, whole, model, settings, history, source, knows, compiled
        )
        if read_neighbours is not None:
            program.neighbours = read_neighbours(program)
        with self._lock:
            self._close_idle()
            self._check_room()
            session = self._opened(session_id)
            session.programs[program_id] = program
            session.versions[program_id] = {program.version: program}
        return program

    def versions(self, program: Program) -> Mapping[int, Program]:
        """Return all versions of a program; raise errors as :meth:`find`."""
        return dict(self.find(program.session_id).versions.get(program.id, {}))

    def add_version(
        self, program: Program, knows: Learned, compiled: Mapping[str, Any], neighbours: Neighbours | None = None
    ) -> Program:
        """Add a version of a program that has learned something; calls that name no version run the newest one.

        Raises:
            OperationError: Of kind ``session_not_found`` or ``program_not_found``: deleted in the meantime. Of kind
                ``overloaded``: the registry is full.
        """
        session = self.find(program.session_id)
        with self._lock:
            versions = session.versions.get(program.id)
            if versions is None:
                raise self._no_program(program.id, program.session_id, session.programs)
            self._check_room()
            added = replace(
                program,
                learned=knows,
                compiled=compiled,
                neighbours=neighbours,
                version=max(versions) + 1,
                calls=0,
                _learned_module=None,
                _lock=threading.Lock(),
            )
            versions[added.version] = session.programs[program.id] = added
        return added

    def _check_room(self) -> None:
        held = sum(len(versions) for session in self._sessions.values() for versions in session.versions.values())
        if held >= self._max_programs:
            raise OperationError(
                "overloaded",
                f"this port holds {held} programs and versions already; delete_program or close_session first, or "
                f"start it with a larger DSPEX_MAX_PROGRAMS",
            )

    def find_program(
        self, session_id: str | None, program_id: str, version: int | None = None, *, is_used: bool = True
    ) -> Program:
        """Return a program of one session, or of the whole port if no session is named.

        Without a ``version`` it is the newest one. Unless ``is_used`` is false, this counts as a use of the session.

        Raises:
            OperationError: Of kind ``session_not_found`` or ``program_not_found``.
        """
        if session_id is not None:
            programs = self.find(session_id, is_used=is_used).programs
        else:
            with self._lock:
                self._close_idle()
                programs = {key: item for session in self._sessions.values() for key, item in session.programs.items()}
        program = programs.get(program_id)
        if program is None:
            raise self._no_program(program_id, session_id, programs)
        session = self.find(program.session_id, is_used=is_used)
        if version is None:
            return program
        versions = session.versions.get(program_id, {})
        if version not in versions:
            known = ", ".join(map(str, versions))
            message = f"program {quoted(program_id)} has no version {version}; it has {known}"
            raise OperationError("program_not_found", message, path="opts.version")
        return versions[version]

    def find_shared(self, session_id: str | None, program_id: str, version: int | None = None) -> Program | None:
        """Find a program that keeps conversations, for a call through the session of a user.

        Args:
            session_id: The program's own session; ``None``: wherever it is.
            program_id: The program.
            version: The version; ``None``: the newest.

        Returns:
            The program; ``None``: there is none of this id, or it keeps no conversations.
        """
        try:
            program = self.find_program(session_id, program_id, version)
        except OperationError as error:
            if (
                error.kind not in ("program_not_found", "session_not_found")
                or error.facts.get("path") == "opts.version"
            ):
                raise
            return None
        return program if program.keeps_history else None

    def delete_program(self, session_id: str | None, program_id: str) -> Program:
        """Delete a program and return it; raise errors as :meth:`find_program`."""
        program = self.find_program(session_id, program_id)
        with self._lock:
            session = self._sessions.get(program.session_id)
            if session is not None:
                session.programs.pop(program_id, None)
                session.versions.pop(program_id, None)
        self.conversations.forget(None, [program_id])
        return program

    def close(self, session_id: str) -> Session:
        """Close a session, delete its programs, and return it.

        Raises:
            OperationError: Of kind ``session_not_found``.
        """
        session = self.find(session_id)
        with self._lock:
            self._sessions.pop(session_id, None)
        self.conversations.forget(session_id, session.programs)
        return session

    def all(self) -> list[Session]:
        """Return the open sessions."""
        with self._lock:
            self._close_idle()
            return list(self._sessions.values())

    def _no_program(self, program_id: str, session_id: str | None, known: Mapping[str, Program]) -> OperationError:
        where = f"in session {quoted(session_id)}" if session_id is not None else "on this port"
        message = f"unknown program {quoted(program_id)} {where}{suggestion(program_id, known)}; {self._started()}"
        return OperationError("program_not_found", message, path="program_id")

    def _started(self) -> str:
        """Say since when there can be sessions and programs, as a restart of Python ends all of them."""
        at = datetime.fromtimestamp(self._started_at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"Python was started at {at}, and knows nothing from before"

    def _opened(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            # A session may be opened for its model alone, so the limit on programs does not limit sessions.
            if len(self._sessions) >= self._max_programs:
                raise OperationError(
                    "overloaded",
                    f"this port holds {len(self._sessions)} sessions already; close_session first, or start it with a "
                    f"larger DSPEX_MAX_PROGRAMS",
                )
            session = self._sessions[session_id] = Session(session_id)
        session.used_at = time.monotonic()
        return session

    def _close_idle(self) -> None:
        limit = time.monotonic() - self._session_idle_s
        for session in list(self._sessions.values()):
            if session.used_at < limit:
                del self._sessions[session.id]
                self.conversations.forget(session.id, session.programs)


def _new_module(
    stages: tuple[Stage, ...], outputs: tuple[tuple[str, Source], ...] | None, predictors: Collection[object]
) -> Pipeline:
    """Return a new module for stages that has predictors of these names."""
    members = voting.count_members(predictors)
    return Voting(stages, outputs, members) if members else Pipeline(stages, outputs)


def _read_learned(
    known: object, stages: tuple[Stage, ...], outputs: tuple[tuple[str, Source], ...] | None, module: Pipeline | None
) -> Learned | None:
    if known is None:
        return None
    names = arguments.options(known, "learned")
    members = voting.count_members(names)
    if members > MAX_MEMBERS:
        message = f"expected at most {MAX_MEMBERS} members at learned, got {members}"
        raise OperationError("input", message, path="learned")
    return learned.read(known, module if module and not members else _new_module(stages, outputs, names), "learned")


def _learned_with(compiled: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the tools with which a loaded program has learned."""
    names = (compiled or {}).get("tools", [])
    if not isinstance(names, list):
        message = f"expected a list of names at compiled.tools, got {shown(names)}"
        raise OperationError("input", message, path="compiled.tools")
    return [arguments.text(name, f"compiled.tools[{index}]") for index, name in enumerate(names)]


def _settings(config: object) -> dict[str, Any]:
    given = arguments.options(config, "spec.config")
    arguments.only(given, GENERATION_SETTINGS, "setting", "spec.config")
    return {name: generation_setting(name, value, "spec.config") for name, value in given.items()}


def _limit(variable: str, default: int) -> int:
    text = os.environ.get(variable)
    if text is None:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise OperationError(
            "input", f"expected a positive integer in the environment at {variable}, got {quoted(text)}"
        )
    return int(text)
