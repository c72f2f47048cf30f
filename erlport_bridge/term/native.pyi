from erlport_bridge.term import pure as pure
from erlport_bridge.term.pure import decode as decode
from erlport_bridge.term.pure import encode as encode

reference = pure
