"""The registry of one port: its default model, its sessions, and the programs that they hold.

Bounded: a session that nobody has used for a while is closed, and past a number of programs a new one is refused. The
limits are read from the environment of the port: ``DSPEX_MAX_PROGRAMS``, ``DSPEX_MAX_CONVERSATIONS`` and
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
from erlport_bridge.programs.execution import TurnFields
from erlport_bridge.programs.models import GENERATION_SETTINGS, LanguageModel, from_option, generation_setting
from erlport_bridge.programs.pipelines import (
    HISTORY_FIELD,
    Learned,
    Pipeline,
    Source,
    Stage,
    Voting,
    learned,
    pipeline,
    voting,
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

DEFAULT_MAX_PROGRAMS: Final = 1_000
DEFAULT_SESSION_IDLE_MS: Final = 3_600_000
#: Versions that vote together.
MAX_MEMBERS: Final = 100

_SPEC_KEYS: Final = frozenset(["signature", "instructions", "modules", "outputs", "history", "lm", "config"])
_DEFAULT_MODULES: Final = ["dspy.Predict"]


@dataclass
class Program:
    """Stages with a name; keeps its conversation if it was asked to.

    Attributes:
        outputs: The fields that it gives and where they come from; ``None``: all that its stages give.
        whole: The inputs that it takes and the outputs that it gives.
        model: Its own model; ``None``: the session's.
        settings: Generation settings of all its calls.
        keeps_history: It keeps conversations, each by the id that a call names.
        source: The spec that it was made of, as its caller wrote it, without a model.
        learned: What its predictors have learned; ``None``: nothing.
        compiled: How they have.
        neighbours: Examples that it learns from anew at each call; ``None``: none.
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
    _taught: Pipeline | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def asked(self) -> SignatureSpec:
        """The signature as its callers see it: without the history, which the program fills in itself."""
        inputs = tuple(item for item in self.whole.inputs if not self.keeps_history or item.name != HISTORY_FIELD)
        return SignatureSpec(inputs, self.whole.outputs, self.whole.instructions)

    def module(self) -> Pipeline:
        """Give the module that runs it."""
        if not self.learned:
            return pipeline.built(self.stages, self.outputs)
        if self._taught is not None:
            return self._taught
        module = _untaught(self.stages, self.outputs, self.learned)
        learned.teach(module, self.learned)
        if all(stage.is_shared for stage in self.stages):
            self._taught = module
        return module

    def with_learned(self, knows: Learned) -> Program:
        """Give the program for one call, with what was learned for it."""
        return replace(self, learned=knows, _taught=None, _lock=threading.Lock())

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
        """Count a call that has succeeded, and add it to its conversation."""
        with self._lock:
            self.calls += 1
        if told is not None:
            given = {name: value for name, value in values.items() if name != HISTORY_FIELD}
            told.append(given | self._outputs(prediction))

    def _outputs(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of a prediction, which is a term, as the values that DSPy takes."""
        outputs = {}
        for item in self.whole.outputs:
            if item.name in prediction:
                value = prediction[item.name]
                try:
                    outputs[item.name] = None if value is None else convert(item.annotation, value, item.name)
                except OperationError:  # a module of the application may give what it did not declare
                    outputs[item.name] = value
        return outputs

    def describe(self) -> dict[str, Any]:
        """Give the program as a term."""
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
        }


@dataclass
class Session:
    """Programs and a default model that belong together.

    Attributes:
        programs: By id, the newest version of each.
        versions: By id and number, all of them.
    """

    id: str
    model: LanguageModel | None = None
    programs: dict[str, Program] = field(default_factory=dict)
    versions: dict[str, dict[int, Program]] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    used_at: float = field(default_factory=time.monotonic)

    def describe(self) -> dict[str, Any]:
        """Give the session as a term; times in milliseconds."""
        return {
            "id": self.id,
            "programs": list(self.programs),
            "model": self.model.model if self.model else None,
            "created_at_ms": round(self.created_at * 1000),
            "idle_ms": round((time.monotonic() - self.used_at) * 1000),
        }


class Sessions:
    """The registry.

    Args:
        max_programs: Most programs that all sessions hold together, and most sessions.
        session_idle_ms: How long a session lives without being used.
        max_conversations: Most conversations of all programs together.

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
        # Protects the dict of sessions and the dicts of programs; never held while anything is built or asked.
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> Sessions:
        """Make the registry with the limits of the environment."""
        return cls(
            max_programs=_limit("DSPEX_MAX_PROGRAMS", DEFAULT_MAX_PROGRAMS),
            session_idle_ms=_limit("DSPEX_SESSION_IDLE_MS", DEFAULT_SESSION_IDLE_MS),
            max_conversations=_limit("DSPEX_MAX_CONVERSATIONS", DEFAULT_MAX_CONVERSATIONS),
        )

    def configure(self, model: LanguageModel, session_id: str | None) -> None:
        """Set the default model of the port, or of one session, which is opened if there is none of that id."""
        if session_id is None:
            self._default_model = model
            return
        with self._lock:
            self._close_idle()
            self._opened(session_id).model = model

    def model_for(self, session_id: str | None, *preferred: LanguageModel | None) -> LanguageModel:
        """Give the first of ``preferred`` that is a model, else the session's, else the port's default.

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
        """Give the port's default model."""
        return self._default_model

    def find(self, session_id: str, *, is_used: bool = True) -> Session:
        """Find a session; ``is_used``: it lives on from now, which only looking at it should not make it do.

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
        """Make a program from its spec, in a session that is opened if need be; without an id, in a new one.

        Args:
            spec: What it is made of.
            session_id: The session.
            model: Its own model, if the spec names none.
            known: What it has learned, as :func:`erlport_bridge.programs.pipelines.learned.describe` gives it.
            compiled: How it has.
            read_neighbours: Gives the examples that it learns from at each call.
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
        # What cannot be built is not kept.
        module = pipeline.built(stages, outputs)
        knows = _read_learned(known, stages, outputs, module)
        source = {key: value for key, value in given.items() if key != "lm"}
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
        """Give all versions of a program; errors as :meth:`find`."""
        return dict(self.find(program.session_id).versions.get(program.id, {}))

    def add_version(
        self, program: Program, knows: Learned, compiled: Mapping[str, Any], neighbours: Neighbours | None = None
    ) -> Program:
        """Add a version of a program that has learned something; the newest is the one that runs if none is named.

        Raises:
            OperationError: Of kind ``session_not_found`` or ``program_not_found``: it was deleted meanwhile.
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
                _taught=None,
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
        """Find a program in its session, or on the whole port if no session is named; its newest version if none is.

        ``is_used``: so is its session.

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
        """Forget a program; errors as :meth:`find_program`."""
        program = self.find_program(session_id, program_id)
        with self._lock:
            session = self._sessions.get(program.session_id)
            if session is not None:
                session.programs.pop(program_id, None)
                session.versions.pop(program_id, None)
        self.conversations.forget(None, [program_id])
        return program

    def close(self, session_id: str) -> Session:
        """Forget a session and its programs.

        Raises:
            OperationError: Of kind ``session_not_found``.
        """
        session = self.find(session_id)
        with self._lock:
            self._sessions.pop(session_id, None)
        self.conversations.forget(session_id, session.programs)
        return session

    def all(self) -> list[Session]:
        """Give the sessions that are open."""
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
            # A session may be opened for its model alone, so that the bound on programs does not bound sessions.
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


def _untaught(
    stages: tuple[Stage, ...], outputs: tuple[tuple[str, Source], ...] | None, predictors: Collection[object]
) -> Pipeline:
    """Give a module that has predictors of these names."""
    members = voting.count_members(predictors)
    return Voting(stages, outputs, members) if members else Pipeline(stages, outputs)


def _read_learned(
    known: object, stages: tuple[Stage, ...], outputs: tuple[tuple[str, Source], ...] | None, module: Pipeline
) -> Learned | None:
    if known is None:
        return None
    names = arguments.options(known, "learned")
    members = voting.count_members(names)
    if members > MAX_MEMBERS:
        message = f"expected at most {MAX_MEMBERS} members at learned, got {members}"
        raise OperationError("input", message, path="learned")
    return learned.read(known, _untaught(stages, outputs, names) if members else module, "learned")


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
