"""``dspy.ReActV2``, whose failure to get the output fields from the model is an error of reading it."""

from __future__ import annotations

from typing import Any

import dspy

from erlport_bridge.errors import OperationError, message_of


class ToolAgent(dspy.ReActV2):  # type: ignore[misc]
    """The module itself, with an error that says whose fault it is."""

    stands_for = dspy.ReActV2

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the module.

        Raises:
            OperationError: Of kind ``parse``: the model never gave the output fields as they were asked for.
        """
        try:
            return await super().aforward(**inputs)
        except ValueError as error:
            raise OperationError("parse", f"the model submitted no output fields: {message_of(error)}") from error
