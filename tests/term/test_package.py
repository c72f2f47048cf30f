"""Test the public interface of the package."""

import subprocess
import sys

import erlport_bridge.term


def test_public_interface_is_the_listed_names() -> None:
    assert set(erlport_bridge.term.__all__) == {
        *("decode", "decode_elements", "encode", "encode_frame", "set_elixir_version", "shown", "Buffer", "Term"),
        *("FALLBACK_REASON", "IMPLEMENTATION"),
        *("MAX_ATOM_CHARACTERS", "MAX_BYTES", "MAX_DEPTH", "PACKET_SIZES"),
        *("Atom", "FrozenList", "FrozenMap", "ImproperList"),
        *("OtpErlangBinary", "OtpErlangFunction", "OtpErlangPid", "OtpErlangPort", "OtpErlangReference"),
        *("ElixirZone", "PreciseDateTime", "PreciseTime"),
        *("OrderedMap", "sort_maps", "sorted_items", "sorted_keys"),
    }


def test_codec_does_not_load_dspy() -> None:
    code = "import sys, erlport_bridge.term; print('dspy' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
