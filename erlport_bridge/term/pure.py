"""The codec in pure Python: the reference that any faster codec must agree with."""

from erlport_bridge.term.decoding import MAX_BYTES, decode, decode_elements
from erlport_bridge.term.encoding import encode, encode_frame
from erlport_bridge.term.types import MAX_DEPTH

__all__ = ["MAX_BYTES", "MAX_DEPTH", "decode", "decode_elements", "encode", "encode_frame"]
