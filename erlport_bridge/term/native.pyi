from erlport_bridge.term import pure as pure
from erlport_bridge.term.pure import decode as decode
from erlport_bridge.term.pure import encode as encode
from erlport_bridge.term.pure import encode_frame as encode_frame

reference = pure
