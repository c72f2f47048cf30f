"""Decode Erlang external terms to Python values, and encode Python values as Erlang external terms.

>>> decode(encode({"answer": [1, 2.5, None, Atom("ok")]}))
{'answer': [1, 2.5, None, Atom('ok')]}
"""

from erlport_bridge.term.decoding import Buffer
from erlport_bridge.term.encoding import PACKET_SIZES
from erlport_bridge.term.implementation import FALLBACK_REASON, IMPLEMENTATION, codec
from erlport_bridge.term.inspecting import shown
from erlport_bridge.term.ordering import OrderedMap, sort_maps, sorted_items, sorted_keys
from erlport_bridge.term.pure import MAX_BYTES, MAX_DEPTH, decode_elements
from erlport_bridge.term.structs import ElixirZone, PreciseDateTime, PreciseTime, set_elixir_version
from erlport_bridge.term.types import (
    MAX_ATOM_CHARACTERS,
    Atom,
    FrozenList,
    FrozenMap,
    ImproperList,
    OtpErlangBinary,
    OtpErlangFunction,
    OtpErlangPid,
    OtpErlangPort,
    OtpErlangReference,
    Term,
)

decode = codec.decode
encode = codec.encode
encode_frame = codec.encode_frame

__all__ = [
    "FALLBACK_REASON",
    "IMPLEMENTATION",
    "MAX_ATOM_CHARACTERS",
    "MAX_BYTES",
    "MAX_DEPTH",
    "PACKET_SIZES",
    "Atom",
    "Buffer",
    "ElixirZone",
    "FrozenList",
    "FrozenMap",
    "ImproperList",
    "OrderedMap",
    "OtpErlangBinary",
    "OtpErlangFunction",
    "OtpErlangPid",
    "OtpErlangPort",
    "OtpErlangReference",
    "PreciseDateTime",
    "PreciseTime",
    "Term",
    "decode",
    "decode_elements",
    "encode",
    "encode_frame",
    "set_elixir_version",
    "shown",
    "sort_maps",
    "sorted_items",
    "sorted_keys",
]
