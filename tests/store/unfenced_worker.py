"""Turn off the fence of the store in the process that imports this, see :mod:`tests.store.unfenced`."""

from erlport_bridge.programs.sessions.stored_conversations import StoredConversations
from tests.store import unfenced

StoredConversations._append = unfenced.append  # type: ignore[assignment,method-assign]
