"""Check a recorded history of calls that several workers made in conversations, against what the store has at the end.

The rules:

1. Each acknowledged turn is in the store, once.
2. A turn that was refused is not in the store. Of a call whose worker was killed it is not known; its turn is there at
   most once.
3. The turns are in an order in which they may have been added: a turn that was acknowledged before another began stands
   before it.
4. A turn follows those that its call has seen, and no others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Call:
    """One call: when it began and ended, by a counter; what it saw and added; and whether it was acknowledged.

    ``ended`` stays ``None`` for a call whose worker was killed.
    """

    conversation: str
    turn: str
    began: int
    seen: tuple[str, ...] = ()
    ended: int | None = None
    is_acknowledged: bool = False


class History:
    """The calls of all workers, in the order in which they began."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._clock = itertools.count()

    def begin(self, conversation: str) -> Call:
        """Record the begin of a call, whose turn has a text of its own."""
        began = next(self._clock)
        call = Call(conversation, f"turn {began}", began)
        self.calls.append(call)
        return call

    def end(self, call: Call, *, is_acknowledged: bool) -> None:
        """Record the end of a call."""
        call.ended, call.is_acknowledged = next(self._clock), is_acknowledged

    def violations(self, conversation: str, stored: Sequence[str]) -> list[str]:
        """Return how the turns of a conversation break the rules; none: they keep them."""
        calls = {call.turn: call for call in self.calls if call.conversation == conversation}
        found = []
        for turn, call in calls.items():
            count = stored.count(turn)
            if call.is_acknowledged and not count:
                found.append(f"{turn} was acknowledged and is not stored")
            if count > 1:
                found.append(f"{turn} is stored {count} times")
            if not call.is_acknowledged and call.ended is not None and count:
                found.append(f"{turn} was refused and is stored")
        for index, turn in enumerate(stored):
            call = calls[turn]
            for later in stored[index + 1 :]:
                ended = calls[later].ended
                if ended is not None and ended < call.began:
                    found.append(f"{later} ended before {turn} began, and stands after it")
            if call.seen != tuple(stored[:index]):
                found.append(f"{turn} follows {stored[:index]}, and its call saw {call.seen}")
        return found
