"""The rows of a store as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Versions:
    """The versions of what one call uses; ``None``: there is no such row.

    Attributes:
        sessions: Of the sessions that the call names, in their order.
        program: Of the program.
        program_session: The session of the program, and its version.
        conversation: Of the conversation, and its owner.
    """

    sessions: tuple[int | None, ...]
    program: int | None
    program_session: tuple[str, int] | None
    conversation: tuple[int, str] | None


class SpentRow(NamedTuple):
    """What a session or program with a budget has spent on models.

    Attributes:
        cost: In US dollars.
        tokens: Of prompts and answers.
        unpriced: Answers whose price is unknown.
        uncounted: Answers whose tokens are unknown.
    """

    cost: float = 0.0
    tokens: int = 0
    unpriced: int = 0
    uncounted: int = 0


@dataclass(frozen=True)
class SessionRow:
    """A session.

    Attributes:
        model: The configuration of its model as JSON, without keys.
        model_name: The name of its model, for lists.
        budget: What it may spend, as JSON; ``None``: no limit.
        idle_ms: How long nobody has used it, about.
        programs: The ids of its programs; only in a list.
    """

    id: str
    version: int
    model: str | None
    model_name: str | None
    budget: str | None
    created_ms: int
    idle_ms: int
    programs: tuple[str, ...] = ()


@dataclass(frozen=True)
class VersionRow:
    """One version of a program: its body, and its description for lists, as JSON."""

    number: int
    body: str
    description: str


@dataclass(frozen=True)
class ProgramRow:
    """A program with all its versions, or in a list with the newest alone; the oldest first."""

    id: str
    session_id: str
    version: int
    versions: tuple[VersionRow, ...]


@dataclass(frozen=True)
class TurnRow:
    """One turn of a conversation.

    Attributes:
        body: Its fields as JSON.
        key: What distinguishes the call that made it from every other call, so that its repetition adds no second turn.
        answer: The prediction of that call as JSON, for its repetition; only with a key.
    """

    body: str
    key: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class ConversationRow:
    """A conversation; with the bodies of its turns, or in a list with their number and bytes alone."""

    id: str
    program_id: str
    session_id: str | None
    version: int
    owner: str
    created_ms: int
    idle_ms: int
    turns: tuple[str, ...] = ()
    turn_count: int = 0
    size: int = 0
