"""Run ``dspy.ReActV2``, and raise an error of kind ``parse`` if the model never gives the output fields."""

from __future__ import annotations

from typing import Any

import dspy

from erlport_bridge.errors import OperationError, message_of


class ToolAgent(dspy.ReActV2):  # type: ignore[misc]
    """The port's ``dspy.ReActV2``: an answer without the output fields is an error of kind ``parse``."""

    stands_for = dspy.ReActV2

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the module.

        Raises:
            OperationError: Of kind ``parse``: the model never gave the output fields in the requested form.
        """
        try:
            return await super().aforward(**inputs)
        except ValueError as error:
            raise OperationError("parse", f"the model submitted no output fields: {message_of(error)}") from error
