"""The registry of one port: its default model, its sessions, and the programs that they hold.

The registry is bounded: a session that is idle for too long is closed, and a program beyond the maximum is refused. A
session that a call in flight uses is not idle; where it is closed by its name, the call goes on with it.

The limits are environment variables of the port: ``DSPEX_MAX_PROGRAMS``, ``DSPEX_MAX_CONVERSATIONS`` and
``DSPEX_SESSION_IDLE_MS``.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import CONVERSATIONS, PROGRAM_BYTES, PROGRAMS, PROGRAMS_BYTES, size_of
from erlport_bridge.programs.models import (
    BUDGET_OPTIONS,
    GENERATION_SETTINGS,
    Budget,
    BudgetLimits,
    LanguageModel,
    from_option,
    generation_setting,
)
from erlport_bridge.programs.pipelines import (
    Learned,
    Pipeline,
    Source,
    Stage,
    learned,
    learned_tools,
    misplaced,
    models_of,
    pipeline,
    read_outputs,
    read_stages,
    storable,
    voting,
    with_tools,
    without_models,
)
from erlport_bridge.programs.sessions import uses
from erlport_bridge.programs.sessions.cached_sessions import CachedSessions
from erlport_bridge.programs.sessions.conversations import Conversations
from erlport_bridge.programs.sessions.neighbours import Neighbours
from erlport_bridge.programs.sessions.program import Program, budget_of, new_module
from erlport_bridge.programs.sessions.provided import POOL_SESSION, check_changeable
from erlport_bridge.programs.sessions.session import Session
from erlport_bridge.programs.signatures import parse_signature
from erlport_bridge.programs.text import arguments, quoted, suggestion, text_of

# Of a limit in the environment.
_MAX_DIGITS: Final = 18
DEFAULT_SESSION_IDLE_MS: Final = 3_600_000
#: The maximum number of versions that vote together.
MAX_MEMBERS: Final = 100

#: The keys of a program's spec.
SPEC_KEYS: Final = frozenset(
    ["signature", "instructions", "modules", "outputs", "history", "lm", "config", *BUDGET_OPTIONS]
)
_DEFAULT_MODULES: Final = ["dspy.Predict"]


class Sessions(CachedSessions):
    """The registry of one port.

    Args:
        max_programs: The maximum number of programs in all sessions together, and of sessions.
        session_idle_ms: How long a session stays open without being used.
        max_conversations: The maximum number of conversations of all programs together.

    Attributes:
        conversations: The conversations of all programs.
        is_cache: Whether it is the cache of a store, which has all that was answered.
    """

    def __init__(
        self,
        *,
        max_programs: int = PROGRAMS.default,
        session_idle_ms: int = DEFAULT_SESSION_IDLE_MS,
        max_conversations: int = CONVERSATIONS.default,
    ) -> None:
        self._max_programs = max_programs
        self._session_idle_s = session_idle_ms / 1000
        self.conversations = Conversations(max_conversations, self._session_idle_s)
        self.is_cache = False
        self._started_at = time.time()
        self._default_model: LanguageModel | None = None
        self._sessions: dict[str, Session] = {}
        # Protects the dict of sessions and the dicts of programs; not held while a module is built or a model called.
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> Sessions:
        """Return a registry with the limits of the environment."""
        return cls(
            max_programs=PROGRAMS.most,
            session_idle_ms=read_limit("DSPEX_SESSION_IDLE_MS", DEFAULT_SESSION_IDLE_MS),
            max_conversations=CONVERSATIONS.most,
        )

    def configure(self, model: LanguageModel, session_id: str | None) -> None:
        """Set the default model of the port, or that of one session, which is opened if it does not exist."""
        if session_id is None:
            self._default_model = model
            return
        check_changeable(session_id, "opts.session_id")
        with self._lock:
            self._close_idle()
            self._opened(session_id).model = model

    def open(self, session_id: str, limits: Mapping[str, Any]) -> Session:
        """Open a session, or take an open one, and set those limits of its budget that are given by name."""
        with self._lock:
            self._close_idle()
            session = self._opened(session_id)
            session.budget.limits = session.budget.limits._replace(**limits)
            return session

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

    def find(self, session_id: str, *, is_used: bool = True, program_id: str | None = None) -> Session:
        """Return a session; unless ``is_used`` is false, this counts as a use until the running operation ends.

        Args:
            session_id: The session.
            is_used: See above.
            program_id: The program that is looked for in it, for the error.

        Raises:
            OperationError: Of kind ``session_not_found``.
        """
        with self._lock:
            self._close_idle()
            session = uses.held(Session, session_id) or self._sessions.get(session_id)
            if session is None:
                # Without a suggestion: it would tell one user the id of another.
                whose = "" if program_id is None else f" of the program {quoted(program_id)}"
                remedy = "open it anew with open_session or create_program"
                if program_id is not None:
                    remedy = "create the program anew with create_program or load_program"
                raise OperationError(
                    "session_not_found",
                    f"unknown session {quoted(session_id)}{whose}; it was never opened, or closed, or idle for more "
                    f"than {self._session_idle_s:g} s; {self._started()}; {remedy}",
                    path="session_id",
                )
            if is_used:
                uses.touch(session)
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
        """Build a program and add it as :meth:`add` does; the arguments are those of :meth:`build_program`."""
        built = self.build_program(
            spec, session_id, model=model, known=known, compiled=compiled, read_neighbours=read_neighbours
        )
        self.add(built)
        return built

    def build_program(
        self,
        spec: object,
        session_id: str | None,
        *,
        model: LanguageModel | None = None,
        known: object = None,
        compiled: Mapping[str, Any] | None = None,
        read_neighbours: Callable[[Program], Neighbours] | None = None,
    ) -> Program:
        """Return a program that belongs to no session yet.

        Args:
            spec: The spec of the program.
            session_id: The id of its session; ``None``: a new one.
            model: The program's own model, if the spec names none.
            known: What it has learned, as :func:`erlport_bridge.programs.pipelines.learned.describe` returns it.
            compiled: The optimizer's report, or ``None``.
            read_neighbours: Returns the examples from which each call learns, for the new program.
        """
        check_changeable(session_id, "opts.session_id")
        given: dict[str, Any] = (
            {"signature": spec} if isinstance(spec, str | bytes) or text_of(spec) else arguments.options(spec, "spec")
        )
        arguments.only(given, SPEC_KEYS, "key", "spec", misplaced.IN_PROGRAM)
        size = size_of((given, known), PROGRAM_BYTES.most)
        PROGRAM_BYTES.check(size, "spec")
        history = arguments.boolean(given.get("history"), "spec.history")
        shared = None
        if given.get("signature") is not None:
            shared = parse_signature(given["signature"], instructions=given.get("instructions"))
        stages, whole = read_stages(given.get("modules", _DEFAULT_MODULES), shared, history=history)
        outputs, whole = read_outputs(given.get("outputs"), stages, whole)
        if given.get("lm") is not None:
            model = from_option(given["lm"], "spec.lm")
        settings = _settings(given.get("config"))
        limits = BudgetLimits.of(BUDGET_OPTIONS.read(given, "spec"))
        # A program that cannot be built is refused here.
        module = pipeline.built(stages, outputs)
        with_tools_of = with_tools(stages, learned_tools(compiled))
        knows = _read_learned(known, with_tools_of, outputs, module if with_tools_of == stages else None)
        source = storable(without_models({key: value for key, value in given.items() if key != "lm"}))
        session_id = session_id or f"session-{secrets.token_hex(6)}"
        # With the session's checksum, by which the pool finds the worker of a program that is called by its id alone.
        program_id = f"program-{zlib.crc32(session_id.encode()):08x}-{secrets.token_hex(6)}"
        budget = Budget(budget_of(program_id), limits)
        program = Program(
            program_id, session_id, budget, stages, outputs, whole, model, settings, history, source, knows, compiled
        )
        program.models = models_of(given)
        if read_neighbours is not None:
            program.neighbours = read_neighbours(program)
            size += _size_of(program.neighbours)
        program.size = size
        return program

    def add(self, program: Program) -> None:
        """Add a program to its session, which is opened if it does not exist.

        Raises:
            OperationError: Of kind ``overloaded``: the registry is full.
        """
        with self._lock:
            self._close_idle()
            self._check_room(program.size)
            session = self._opened(program.session_id)
            session.programs[program.id] = program
            session.versions[program.id] = {program.version: program}

    def provide(self, programs: Mapping[str, Program]) -> None:
        """Set the programs of the pool's configuration, by their names, in place of those that there were.

        Raises:
            OperationError: Of kind ``overloaded``: the registry is full.
        """
        with self._lock:
            before = self._sessions.pop(POOL_SESSION, None)
            if programs:
                self._check_room(sum(program.size for program in programs.values()), len(programs))
                session = self._sessions[POOL_SESSION] = Session(POOL_SESSION)
                # Always in use, so it is never idle.
                session.users = 1
            for name, program in programs.items():
                program.identify(name)
                program.session_id = POOL_SESSION
                session.programs[name] = program
                session.versions[name] = {program.version: program}
        if before is not None:
            # The turns of another program, whose fields may be others.
            others = [name for name, one in before.programs.items() if one.source != _source_of(programs.get(name))]
            self.conversations.forget(None, others)

    def provided(self) -> Mapping[str, Program]:
        """Return the programs of the pool's configuration, by their names."""
        session = self._sessions.get(POOL_SESSION)
        return {} if session is None else session.programs

    def versions(self, program: Program) -> Mapping[int, Program]:
        """Return all versions of a program; raise errors as :meth:`find`."""
        return dict(self.find(program.session_id).versions.get(program.id, {}))

    def add_version(
        self, program: Program, knows: Learned, compiled: Mapping[str, Any], neighbours: Neighbours | None = None
    ) -> Program:
        """Add a version of a program that has learned something; calls that name no version run the newest one.

        Raises:
            OperationError: Of kind ``session_not_found`` or ``program_not_found``: deleted in the meantime. Of kind
                ``overloaded``: the registry is full. Of kind ``input``: the program is the pool's own.
        """
        check_changeable(program.session_id, "program_id")
        session = self.find(program.session_id)
        size = _size_of((program.source, knows, neighbours))
        with self._lock:
            versions = session.versions.get(program.id)
            if session.is_closed:
                raise OperationError("session_not_found", f"session {quoted(session.id)} was closed meanwhile")
            if versions is None:
                raise self._no_program(program.id, program.session_id, session.programs)
            self._check_room(size)
            added = program.next_version(max(versions) + 1, knows, compiled, neighbours, size=size)
            versions[added.version] = session.programs[program.id] = added
        return added

    def check_room(self) -> None:
        """Check that one more program or version may be stored.

        Raises:
            OperationError: Of kind ``overloaded``.
        """
        with self._lock:
            self._check_room(0)

    def _check_room(self, size: int, count: int = 1) -> None:
        """Check that there is room for ``count`` programs or versions of ``size`` bytes."""
        programs = [
            program
            for session in self._sessions.values()
            for versions in session.versions.values()
            for program in versions.values()
        ]
        size += sum(program.size for program in programs)
        if size > PROGRAMS_BYTES.most:
            raise PROGRAMS_BYTES.error("the programs of this port", size)
        held = len(programs)
        if held + count > self._max_programs:
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
            programs = self.find(session_id, is_used=is_used, program_id=program_id).programs
        else:
            with self._lock:
                self._close_idle()
                programs = {key: item for session in self._sessions.values() for key, item in session.programs.items()}
        program = programs.get(program_id)
        if program is None:
            raise self._no_program(program_id, session_id, self._suggested(session_id))
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
        """Find a program that other sessions may call: one that keeps conversations, or that is the pool's own.

        Args:
            session_id: The program's own session; ``None``: wherever it is.
            program_id: The program.
            version: The version; ``None``: the newest.

        Returns:
            The program; ``None``: there is none of this id, or it is called through its own session alone.
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
        return program if program.keeps_history or program.session_id == POOL_SESSION else None

    def delete_program(self, session_id: str | None, program_id: str) -> Program:
        """Delete a program and return it; raise errors as :meth:`find_program`."""
        program = self.find_program(session_id, program_id)
        check_changeable(program.session_id, "program_id")
        self.forget_program(program)
        return program

    def close(self, session_id: str) -> Session:
        """Close a session, delete its programs, and return it.

        Raises:
            OperationError: Of kind ``session_not_found``. Of kind ``input``: it is that of the pool's own programs.
        """
        check_changeable(session_id)
        session = self.find(session_id)
        with self._lock:
            self._sessions.pop(session_id, None)
            session.is_closed = True
        self.conversations.forget(session_id, session.programs)
        return session

    def all(self) -> list[Session]:
        """Return the sessions that callers have opened."""
        with self._lock:
            self._close_idle()
            return [session for session in self._sessions.values() if session.id != POOL_SESSION]

    def _no_program(self, program_id: str, session_id: str | None, known: Mapping[str, Program]) -> OperationError:
        where = "" if session_id is None else f" in session {quoted(session_id)}"
        message = f"unknown program {quoted(program_id)}{where}{suggestion(program_id, known)}; {self._started()}"
        message += "; list_programs shows those that there are; create it anew with create_program or load_program"
        return OperationError("program_not_found", message, path="program_id")

    def _suggested(self, session_id: str | None) -> Mapping[str, Program]:
        """Return the programs that may be suggested: those of the session, or of the pool, not those of other users."""
        with self._lock:
            session = self._sessions.get(POOL_SESSION if session_id is None else session_id)
            return {} if session is None else dict(session.programs)

    def _started(self) -> str:
        """Say since when there can be sessions and programs, as a restart of Python ends all of them."""
        at = datetime.fromtimestamp(self._started_at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        known = "its store does not have it" if self.is_cache else "knows nothing from before"
        return f"Python was started at {at}, and {known}"

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
        uses.touch(session)
        return session

    def _close_idle(self) -> None:
        for session in list(self._sessions.values()):
            if uses.is_idle(session, self._session_idle_s):
                del self._sessions[session.id]
                session.is_closed = True
                self.conversations.forget(session.id, session.programs)


def _source_of(program: Program | None) -> Mapping[str, Any] | None:
    return None if program is None else program.source


def _size_of(learned: object) -> int:
    """Return the bytes of what a program has learned; all programs together have a limit, not each."""
    return size_of(learned, PROGRAMS_BYTES.most)


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
    return learned.read(known, module if module and not members else new_module(stages, outputs, names), "learned")


def _settings(config: object) -> dict[str, Any]:
    given = arguments.options(config, "spec.config")
    arguments.only(given, GENERATION_SETTINGS, "setting", "spec.config")
    return {name: generation_setting(name, value, "spec.config") for name, value in given.items()}


def read_limit(variable: str, default: int, minimum: int = 1) -> int:
    """Return the integer of a variable of the environment, or its default."""
    text = os.environ.get(variable)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_DIGITS or int(text) < minimum:
        raise OperationError(
            "input",
            f"expected {'a positive integer' if minimum == 1 else f'at least {minimum}'} in the environment at "
            f"{variable}, got {quoted(text)}",
        )
    return int(text)
