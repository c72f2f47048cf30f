"""Keep in the store what models answer to a compilation, until it has made its version of the program.

A compilation that has a ``request_id`` may be made again after its process has ended: it finds the answers that it had
got, or the version that it had made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import KeptAnswers
from erlport_bridge.store import Store


@dataclass(frozen=True)
class CompilationAnswers:
    """The answers of one compilation in the store.

    Attributes:
        store: The store.
        program_id: The program that is compiled.
        compilation: What distinguishes the compilation from every other one, but not from its repetition.
    """

    store: Store
    program_id: str
    compilation: str

    async def find(self, request: str, number: int) -> Mapping[str, Any] | None:
        """Return an answer that was kept; ``None``: there is none."""
        body = await self.store.read(lambda rows: rows.kept_answer(self.program_id, self.compilation, request, number))
        if body is None:
            return None
        try:
            found: Mapping[str, Any] = json.loads(body)
        except ValueError as error:
            raise OperationError("store", f"an answer in the store is unreadable: {error}") from None
        return found

    async def keep(self, request: str, number: int, answer: Mapping[str, Any]) -> None:
        """Keep an answer."""
        await self.store.change(
            lambda rows: rows.keep_answer(self.program_id, self.compilation, request, number, json.dumps(answer))
        )

    async def all(self) -> KeptAnswers:
        """Return the answers for the models of the compilation."""
        count = await self.store.read(lambda rows: rows.count_answers(self.program_id, self.compilation))
        return KeptAnswers(self, has_some=count > 0)
