"""Set the language model of the port and of its sessions: ``configure_lm``."""

from __future__ import annotations

from typing import Any

from erlport_bridge.operations.calls import session_option
from erlport_bridge.operations.operation import operation
from erlport_bridge.operations.port_state import stored
from erlport_bridge.programs import models


@operation
async def configure_lm(provider: object, config: object = None, opts: object = None) -> dict[str, Any]:
    """Set the language model of the port, or of the session that ``session_id`` names; answer its description."""
    session_id = session_option(opts)
    model = models.language_model(provider, config)
    await stored.configure(model, session_id)
    return model.describe()
