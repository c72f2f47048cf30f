"""Test decoding of invalid bytes, of terms at the limits, and of tags that no current BEAM writes."""

import mmap
import subprocess
import sys
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from erlang import OtpErlangAtom

from erlport_bridge.errors import DecodeError
from erlport_bridge.term import (
    Atom,
    ImproperList,
    OtpErlangFunction,
    OtpErlangPid,
    OtpErlangPort,
    OtpErlangReference,
    decode_elements,
)
from tests.term.exact import exact

NODE = b"s\x03a@b"  # SMALL_ATOM_EXT
NODE_UTF8 = b"w\x03a@b"


def failure(codec: ModuleType, data: bytes, **limits: int) -> tuple[str, int]:
    with pytest.raises(DecodeError) as raised:
        codec.decode(data, **limits)
    return raised.value.reason, raised.value.offset


def compressed(body: bytes, declared: int | None = None) -> bytes:
    size = len(body) if declared is None else declared
    return b"\x83P" + size.to_bytes(4, "big") + zlib.compress(body)


@pytest.mark.parametrize(
    ("data", "reason", "offset"),
    [
        (b"", "the data ends early", 0),
        (b"\x83", "the data ends early", 1),
        (b"\x82a\x01", "expected the version byte 131, got 130", 0),
        (b"\x83\xc8", "unknown tag 200", 1),
        (b"\x83a\x01\x00\x00", "2 bytes too many behind the term", 3),
        (b"\x83h\x02a\x01\xc8", "unknown tag 200", 5),
        (b"\x83y\x00", "LOCAL_EXT (tag 121), which only the node that wrote it can read", 1),
        (b"\x83h\x01R\x00", "ATOM_CACHE_REF (tag 82), which only nodes of a cluster can read", 3),
        (b"\x83h\x01P\x00", "a compressed term inside a term", 3),
        (b"\x83m\xff\xff\xff\xffab", "a binary of 4294967295 bytes, 2 bytes are left", 1),
        (b"\x83l\xff\xff\xff\xff" + b"a\x01" * 7, "a term of 4294967295 elements, 14 bytes are left", 1),
        (b"\x83i\xff\xff\xff\xff", "a term of 4294967295 elements, 0 bytes are left", 1),
        (b"\x83t\x00\x00\x00\x02a\x01j", "a term of 2 elements, 3 bytes are left", 1),
        (b"\x83k\x00\x05abc", "a list of 5 bytes, 3 bytes are left", 1),
        (b"\x83w\x02\xff\xfe", "an atom that is not UTF-8", 1),
        (b"\x83v\x01\x00" + b"a" * 256, "an atom of 256 characters; 255 are allowed", 1),
        (b"\x83n\x01\x02\x05", "an integer with the sign 2", 1),
        (b"\x83c" + b"nan".ljust(31, b"\0"), f"a float written as {b'nan'.ljust(31, bytes(1))!r}", 1),
        (b"\x83c" + b"1.0e999".ljust(31, b"\0"), f"a float written as {b'1.0e999'.ljust(31, bytes(1))!r}", 1),
        (b"\x83M\x00\x00\x00\x01\x09\xff", "a bitstring of 1 bytes with 9 bits in its last byte", 1),
        (b"\x83r\x00\x00" + NODE + b"\x00", "a reference without an id", 1),
        (b"\x83Xa\x01" + bytes(12), "tag 97 where an atom must stand", 1),
        (b"\x83p\x00\x00\x00\x04" + bytes(40), "a fun of 4 bytes", 1),
        (
            b"\x83t\x00\x00\x00\x02w\x01aa\x01m\x00\x00\x00\x01aa\x02",
            'a map with the keys :a and "a", which are one key in Python',
            1,
        ),
        (b"\x83t\x00\x00\x00\x02a\x01ja\x01j", "a map with the keys 1 and 1, which are one key in Python", 1),
    ],
)
def test_error_of_invalid_bytes_has_its_reason_and_offset(
    codec: ModuleType, data: bytes, reason: str, offset: int
) -> None:
    assert failure(codec, data) == (reason, offset)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (0.0, -0.0),
        ((1, 2), (1.0, 2)),
        ([1], [True]),
        ({"a": [0]}, {"a": [False]}),
        (ImproperList([1], 2), ImproperList([1.0], 2)),
        ("a", Atom("a")),
        (2**64, float(2**64)),
    ],
)
def test_keys_that_python_would_merge_are_never_lost(codec: ModuleType, left: object, right: object) -> None:
    data = b"\x83t\x00\x00\x00\x02" + codec.encode(left)[1:] + b"a\x01" + codec.encode(right)[1:] + b"a\x02"
    assert "one key in Python" in failure(codec, data)[0]


def test_pid_and_its_own_bytes_may_be_keys_of_one_map(codec: ModuleType) -> None:
    """Both have one hash, so that a dict compares them; erlang-py's own classes raise an AttributeError then."""
    pid = b"X" + NODE_UTF8 + bytes(12)
    data = b"\x83t\x00\x00\x00\x02" + pid + b"a\x01m" + len(pid).to_bytes(4, "big") + pid + b"a\x02"
    assert codec.decode(data) == {codec.decode(b"\x83" + pid): 1, pid.decode(): 2}
    assert codec.encode(codec.decode(data)) == data


def test_very_long_integer_as_key_can_be_named(codec: ModuleType) -> None:
    number = (1 << 40_000).to_bytes(5001, "little")
    key = b"o" + len(number).to_bytes(4, "big") + b"\0" + number
    assert "an integer of 40001 bits" in failure(codec, b"\x83t\x00\x00\x00\x02" + key + b"j" + key + b"j")[0]


def test_map_key_nests_64_deep_and_no_deeper(codec: ModuleType) -> None:
    def with_key(depth: int) -> bytes:
        return b"\x83t\x00\x00\x00\x01" + b"h\x01" * depth + b"ja\x01"

    assert len(codec.decode(with_key(63))) == 1
    assert failure(codec, with_key(64)) == ("a map key that nests deeper than 64 levels", 1)
    # Python's own hash of a tuple would crash the process here.
    assert failure(codec, with_key(100_000), max_depth=200_000)[0] == "a map key that nests deeper than 64 levels"


@pytest.mark.parametrize("opening", [b"h\x01", b"l\x00\x00\x00\x01", b"t\x00\x00\x00\x01a\x01", b"i\x00\x00\x00\x01"])
def test_depth_is_limited_only_by_the_limit(codec: ModuleType, opening: bytes) -> None:
    closing = b"j" if opening[:1] == b"l" else b""
    data = b"\x83" + opening * 100_000 + b"a\x01" + closing * 100_000
    assert failure(codec, data) == ("a term that nests deeper than 512 levels", 1 + 512 * len(opening))
    assert failure(codec, data, max_depth=99_999) == (
        "a term that nests deeper than 99999 levels",
        1 + 99_999 * len(opening),
    )
    encoded = codec.encode(codec.decode(data, max_depth=100_000), max_depth=100_000)
    # The BEAM's own form of the innermost list of one byte, and of a tuple of one element.
    assert encoded == data.replace(b"l\x00\x00\x00\x01a\x01j", b"k\x00\x01\x01").replace(b"i\x00\x00\x00\x01", b"h\x01")


def test_compressed_term_inflates_to_its_declared_size_and_no_further(codec: ModuleType) -> None:
    body = b"m\x00\x0f\x42\x40" + bytes(1_000_000)
    whole = compressed(body)
    assert codec.decode(whole) == "\0" * 1_000_000
    too_large = "a compressed term of 1000005 bytes; 1 to 1000000 are allowed"
    assert failure(codec, whole, max_bytes=1_000_000) == (too_large, 2)
    lie = "a compressed term that inflates to more than its declared 1000004 bytes"
    assert failure(codec, compressed(body, len(body) - 1)) == (lie, 2)
    boast = "a compressed term of 1000005 bytes that declares 1000006"
    assert failure(codec, compressed(body, len(body) + 1)) == (boast, 2)
    assert failure(codec, compressed(body, 0))[0].startswith("a compressed term of 0 bytes")
    assert failure(codec, whole[:-1]) == ("the data ends early", len(whole) - 1)
    assert failure(codec, whole + b"ab") == ("2 bytes too many behind the compressed term", len(whole))
    assert failure(codec, b"\x83P\x00\x00\x00\x05hello")[0].startswith("a compressed term that does not inflate")
    assert failure(codec, compressed(b"a\x01\x00")) == ("1 bytes too many behind the term", 2)


def test_tags_of_old_releases(codec: ModuleType) -> None:
    assert codec.decode(b"\x83c" + b"-1.50000000000000000000e+00".ljust(31, b"\0")) == -1.5
    assert codec.decode(b"\x83s\x02\xe9\xe8") is Atom("éè")
    assert codec.decode(b"\x83d\x00\x03nil") is None
    pid = codec.decode(b"\x83g" + NODE + bytes(8) + b"\x02")
    port = codec.decode(b"\x83f" + NODE + bytes(4) + b"\x02")
    reference = codec.decode(b"\x83e" + NODE + bytes(4) + b"\x02")
    fun = codec.decode(b"\x83u\x00\x00\x00\x01g" + NODE + bytes(8) + b"\x02w\x01ma\x07a\x09k\x00\x01x")
    assert [type(term) for term in (pid, port, reference, fun)] == [
        OtpErlangPid,
        OtpErlangPort,
        OtpErlangReference,
        OtpErlangFunction,
    ]
    assert codec.encode(pid) == b"\x83g" + NODE_UTF8 + bytes(8) + b"\x02"
    assert codec.encode(port) == b"\x83f" + NODE_UTF8 + bytes(4) + b"\x02"
    # NEW_REFERENCE_EXT with one word: the same reference.
    assert codec.encode(reference) == b"\x83r\x00\x01" + NODE_UTF8 + b"\x02" + bytes(4)
    assert codec.encode(fun) == b"\x83u\x00\x00\x00\x01g" + NODE + bytes(8) + b"\x02w\x01ma\x07a\x09k\x00\x01x"
    assert failure(codec, b"\x83u\x00\x00\x00\x00jjjj")[0] == "a fun without its pid, module, index and uniq"


@pytest.mark.parametrize(
    ("data", "term"),
    [
        (b"l\x00\x00\x00\x01a\x01l\x00\x00\x00\x01a\x02j", [1, 2]),
        (b"l\x00\x00\x00\x01a\x01k\x00\x02\x02\x03", [1, 2, 3]),
        (b"l\x00\x00\x00\x01a\x01l\x00\x00\x00\x01a\x02a\x03", ImproperList([1, 2], 3)),
        (b"l\x00\x00\x00\x00a\x01", 1),
        (b"l\x00\x00\x00\x00j", []),
        (b"i\x00\x00\x00\x00", ()),
        (b"n\x02\x00\x05\x00", 5),
        (b"n\x00\x00", 0),
    ],
)
def test_forms_that_a_beam_reads_and_does_not_write(
    codec: ModuleType, data: bytes, term: object, ask_beam: Callable[[str], str]
) -> None:
    assert codec.decode(b"\x83" + data) == term
    assert ask_beam(f"{(bytes([131]) + data).hex()} {codec.encode(term).hex()}") == "true"


@pytest.mark.parametrize(
    ("bits", "shown"),
    [
        ("7ff8000000000000", "nan"),
        ("7ff0000000000001", "nan"),
        ("fff8deadbeef0001", "nan"),
        ("7ff0000000000000", "inf"),
        ("fff0000000000000", "-inf"),
    ],
)
def test_float_that_no_beam_has_is_refused_whatever_its_payload(codec: ModuleType, bits: str, shown: str) -> None:
    data = b"\x83h\x02a\x01F" + bytes.fromhex(bits)
    assert failure(codec, data) == (f"a float that is {shown}", 5)


@pytest.mark.parametrize(
    "data",
    [
        b"X" + NODE_UTF8 + bytes(11) + b"\x02",
        b"Y" + NODE_UTF8 + bytes(7) + b"\x02",
        b"Z\x00\x01" + NODE_UTF8 + bytes(8),
        b"qw\x01mw\x01fa\x01",
        b"M\x00\x00\x00\x01\x01\x80",
    ],
    ids=["pid", "port", "reference", "function", "bitstring"],
)
def test_opaque_term_equals_itself_and_can_be_compared_with_anything(codec: ModuleType, data: bytes) -> None:
    """To compare one with text once raised an AttributeError, which was an error of kind ``internal``."""
    term = codec.decode(b"\x83" + data)
    assert term == codec.decode(b"\x83" + data)
    others: list[Any] = ["text", None, 1, [], {}, Atom("a"), codec.decode(b"\x83qw\x01mw\x01fa\x02")]
    for other in others:
        assert term != other
        assert other != term
    assert term not in ["text", None]


def test_opaque_term_may_come_in_a_large_tuple(codec: ModuleType) -> None:
    content = b"m\x00\x00\x00\x07M\x00\x00\x00\x01\x01\x80"
    data = b"\x83i\x00\x00\x00\x03d\x00\x0f$erlport.opaques\x06erlang" + content
    assert codec.encode(codec.decode(data)) == b"\x83M\x00\x00\x00\x01\x01\x80"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"m\x00\x00\x00\x00", 'an opaque term that is no pid, port, reference, fun or bitstring, but ""'),
        (b"m\x00\x00\x00\x02a\x01", 'an opaque term that is no pid, port, reference, fun or bitstring, but "a\\u0001"'),
        (b"a\x01", "an opaque term that is no pid, port, reference, fun or bitstring, but 1"),
        (b"m\x00\x00\x00\x02Xw", "an opaque term that ends early"),
        (b"m\x00\x00\x00\x08M\x00\x00\x00\x01\x01\x80!", "1 bytes too many behind an opaque term"),
    ],
)
def test_malformed_opaque_terms_are_refused(codec: ModuleType, content: bytes, reason: str) -> None:
    assert failure(codec, b"\x83h\x03w\x0f$erlport.opaquew\x06erlang" + content) == (reason, 1)


def test_first_elements_of_a_tuple_whose_rest_is_no_term() -> None:
    call = b"\x83h\x05w\x01Cb\x00\x00\x01\x00w\x01mw\x01f"
    assert decode_elements(call + b"\xc8", 2) == (Atom("C"), 256)
    assert decode_elements(compressed(call[1:] + b"\xff" * 50), 4) == (Atom("C"), 256, Atom("m"), Atom("f"))
    for data in (b"", b"\x83", b"\x83h", b"\x83h\x01a\x01", b"\x83j", call[:6]):
        with pytest.raises(DecodeError):
            decode_elements(data, 2)


def test_any_buffer_is_accepted(codec: ModuleType) -> None:
    data = codec.encode(["text", {"a": b"\xff"}])
    for buffer in (bytearray(data), memoryview(data), memoryview(bytearray(data))):
        assert codec.decode(buffer) == ["text", {"a": b"\xff"}]


def test_atoms_are_one_object_per_name(codec: ModuleType) -> None:
    (first, second), third = codec.decode(b"\x83h\x02w\x03newd\x00\x03new"), Atom("new")
    assert first is second is third
    assert repr(third) == "Atom('new')"
    assert type(str(third)) is str


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"\x83\xc8", ""),
        (b"\x83h\x02a\x01\xc8", "[1]"),
        (b"\x83t\x00\x00\x00\x01m\x00\x00\x00\x01kl\x00\x00\x00\x02a\x01\xc8j", '["k"][1]'),
        (b"\x83t\x00\x00\x00\x01w\x01k\xc8", "[:k]"),
        (b"\x83t\x00\x00\x00\x01\xc8j", "[a key]"),
        (b"\x83l\x00\x00\x00\x01t\x00\x00\x00\x02a\x01ja\x01jj", "[0]"),
        (b"\x83" + b"h\x01" * 30 + b"\xc8", "[0]" * 10 + " … " + "[0]" * 10),
    ],
)
def test_error_has_the_path_of_the_invalid_term(codec: ModuleType, data: bytes, path: str) -> None:
    with pytest.raises(DecodeError) as raised:
        codec.decode(data)
    assert raised.value.path == path
    assert f"at {path} (byte {raised.value.offset})" in str(raised.value) or not path


def mapped(data: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


@pytest.mark.parametrize("make", [bytearray, memoryview, lambda data: memoryview(data * 2)[: len(data)], mapped])
@pytest.mark.parametrize(
    "term",
    [
        (Atom("ok"), {"a": [1, 2.5, None]}),
        [OtpErlangPid(OtpErlangAtom("a@b"), bytes(4), bytes(4), bytes(4)), 2**80, "text"],
        {"large": "é" * 700_000, "ascii": "a" * 1_200_000, "bytes": b"\xff" * 1_200_000},
    ],
)
def test_term_is_read_from_any_memory(codec: ModuleType, make: Callable[[bytes], Any], term: Any) -> None:
    for compressed in (0, 6):
        data = codec.encode(term, compressed=compressed)
        assert exact(codec.decode(make(data))) == exact(codec.decode(data))
        with pytest.raises(DecodeError) as raised:
            codec.decode(make(data[:-1]))
        with pytest.raises(DecodeError) as of_bytes:
            codec.decode(data[:-1])
        assert str(raised.value) == str(of_bytes.value)


# Run in a process of its own, because the fault would be a crash.
RACE = """
import sys, threading
from importlib import import_module

codec = import_module(sys.argv[1])
two, four = "é".encode() * 1_000_000, "🚀".encode() * 500_000
data = bytearray(codec.encode("é" * 1_000_000))
stop = threading.Event()

def change():
    while not stop.is_set():
        data[-len(two):] = four
        data[-len(two):] = two

thread = threading.Thread(target=change)
thread.start()
try:
    seen = set().union(*(codec.decode(data) for _ in range(100)))
finally:
    stop.set()
    thread.join()
assert seen <= {"é", "🚀"}, seen
"""


def test_bytearray_that_another_thread_changes_is_read_as_it_was(codec: ModuleType) -> None:
    """A bytearray was once read in place while other threads ran: checked as 2-byte, then read as 4-byte characters."""
    ended = subprocess.run([sys.executable, "-c", RACE, codec.__name__], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
