"""Test encoding of values whose classes the decoder never returns, and of values that cannot be encoded."""

import enum
import math
import threading
import time
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from erlport_bridge.errors import EncodeError
from erlport_bridge.term import (
    Atom,
    FrozenList,
    FrozenMap,
    ImproperList,
    OtpErlangBinary,
    OtpErlangPid,
    OtpErlangReference,
)


class Text(str):
    """A subclass of ``str``."""


class Level(enum.IntEnum):
    """An enumeration of integers."""

    LOW = 1
    HIGH = 300


class Word(str, enum.Enum):
    """An enumeration of texts."""

    YES = "yes"


class Color(enum.Enum):
    """An enumeration without a base class, which has no single form as a term."""

    RED = "red"


class Opaque:
    """An object that cannot be encoded."""


Point = namedtuple("Point", "x y")  # untyped, as in users' code


def failure(codec: ModuleType, term: object, **limits: int) -> tuple[str, str]:
    with pytest.raises(EncodeError) as raised:
        codec.encode(term, **limits)
    return raised.value.reason, raised.value.path


@pytest.mark.parametrize(
    ("value", "term"),
    [
        (Text("text"), "text"),
        (Word.YES, "yes"),
        ([Level.LOW, Level.HIGH], [1, 300]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Point(1, "y"), (1, "y")),
        (bytearray(b"\xff"), b"\xff"),
        (memoryview(b"\xff"), b"\xff"),
        (b"text", "text"),
        (FrozenList((1, 300)), [1, 300]),
        (FrozenMap(a=1), {"a": 1}),
        (Atom("nil"), None),
        (Atom("true"), True),
        (math.nan, Atom("nan")),
        (math.inf, Atom("infinity")),
        (-math.inf, Atom("neg_infinity")),
        (OtpErlangBinary(b"text"), "text"),
    ],
)
def test_subclass_and_kin_of_a_term_is_that_term(codec: ModuleType, value: object, term: object) -> None:
    assert codec.encode(value) == codec.encode(term)
    decoded = codec.decode(codec.encode(value))
    assert decoded == term
    assert type(decoded) is type(term)


@pytest.mark.parametrize(
    ("term", "encoded"),
    [
        ([1, 2], b"k\x00\x02\x01\x02"),
        ([1, 256], b"l\x00\x00\x00\x02a\x01b\x00\x00\x01\x00j"),
        ([1, True], b"l\x00\x00\x00\x02a\x01w\x04truej"),
        ([7] * 65_535, b"k\xff\xff" + b"\x07" * 65_535),
        ([7] * 65_536, b"l\x00\x01\x00\x00" + b"a\x07" * 65_536 + b"j"),
        ((0,) * 255, b"h\xff" + b"a\x00" * 255),
        ((0,) * 256, b"i\x00\x00\x01\x00" + b"a\x00" * 256),
        (256**255 - 1, b"n\xff\x00" + b"\xff" * 255),
        (-(256**255), b"o\x00\x00\x01\x00\x01" + bytes(255) + b"\x01"),
        (Atom("é" * 127), b"w\xfe" + "é".encode() * 127),
        (Atom("é" * 128), b"v\x01\x00" + "é".encode() * 128),
        (-0.0, b"F\x80" + bytes(7)),
    ],
)
def test_form_is_the_one_a_beam_writes(
    codec: ModuleType, term: object, encoded: bytes, ask_beam: Callable[[str], str]
) -> None:
    assert codec.encode(term) == b"\x83" + encoded
    assert ask_beam(codec.encode(term).hex()) == codec.encode(term).hex()


@pytest.mark.parametrize(
    ("term", "reason", "path"),
    [
        (Opaque(), "no term for an object of type {module}.Opaque", ""),
        ({"a": [0, 1, 2, Opaque()]}, "no term for an object of type {module}.Opaque", '["a"][3]'),
        ({Atom("a"): {1: (None, Color.RED)}}, "no term for an object of type {module}.Color", "[:a][1][1]"),
        ({"a": {1j: 1}}, "no term for an object of type builtins.complex", '["a"][key 1j]'),
        ([1j], "no term for an object of type builtins.complex", "[0]"),
        (["ok", "a\ud800"], "a lone surrogate at character 1 of a text, which is not Unicode", "[1]"),
        ({"\udc00": 1}, "a lone surrogate at character 0 of a text, which is not Unicode", r'[key "\udc00"]'),
        ([Text("\ud800")], "a lone surrogate at character 0 of a text, which is not Unicode", "[0]"),
        ([Atom("a" * 256)], "an atom of 256 characters; 255 are allowed", "[0]"),
        ({"a": {"b": 1, b"b": 2}}, 'a map with the keys "b" and <<98>>, which are one key in Erlang', '["a"]'),
        ({None: 1, Atom("nil"): 2}, "a map with the keys nil and :nil, which are one key in Erlang", ""),
        ({("b",): 1, (b"b",): 2}, 'a map with the keys {{"b"}} and {{<<98>>}}, which are one key in Erlang', ""),
        ([ImproperList([1], Opaque())], "no term for an object of type {module}.Opaque", "[0][1]"),
        ([OtpErlangBinary(b"", 3)], "a malformed OtpErlangBinary", "[0]"),
        ([OtpErlangPid(None, b"", b"", b"")], "a malformed OtpErlangPid", "[0]"),
        ([OtpErlangReference(None, b"1234", b"12")], "a malformed OtpErlangReference", "[0]"),
    ],
)
def test_value_that_is_no_term_is_named_with_its_path(codec: ModuleType, term: Any, reason: str, path: str) -> None:
    assert failure(codec, term) == (reason.format(module=__name__), path)


def test_members_of_a_set_must_be_different_terms(codec: ModuleType) -> None:
    reason, path = failure(codec, [{"b", b"b"}])
    assert "one key in Erlang" in reason
    assert path == "[0][:map]"


def test_path_does_not_grow_with_the_depth(codec: ModuleType) -> None:
    term: list[Any] = [Opaque()]
    for _ in range(300):
        term = [term]
    assert failure(codec, term)[1] == "[0]" * 10 + " … " + "[0]" * 10


def test_container_that_contains_itself_is_an_error(codec: ModuleType) -> None:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    assert failure(codec, cycle)[0] == "a container that contains itself"
    assert failure(codec, cycle, max_depth=100_000)[0] == "a container that contains itself"


def test_depth_is_counted_as_the_decoder_counts_it(codec: ModuleType) -> None:
    term: Any = [Atom("a")]
    for _ in range(511):
        term = [term]
    assert codec.decode(codec.encode(term)) == term
    assert failure(codec, [term])[0] == "a value that nests deeper than 512 levels"


def test_compression_is_used_where_it_helps(codec: ModuleType) -> None:
    text = "External Term Format " * 1_000
    assert len(codec.encode(text, compressed=6)) < 200
    assert codec.decode(codec.encode(text, compressed=6)) == text
    assert codec.encode("short", compressed=9) == codec.encode("short")


def test_beam_reads_what_was_compressed(codec: ModuleType, ask_beam: Callable[[str], str]) -> None:
    term = {"text": "External Term Format " * 1_000}
    assert ask_beam(f"{codec.encode(term, compressed=1).hex()} {codec.encode(term).hex()}") == "true"


def test_improper_list_needs_items_and_another_tail_than_a_list() -> None:
    for items, tail in (([], 1), ([1], []), ([1], FrozenList([2]))):
        with pytest.raises(ValueError, match="expected items and a tail that is no list"):
            ImproperList(items, tail)
    assert ImproperList([1], ImproperList([2], 3)) == ImproperList([1, 2], 3)


def test_frozen_containers_cannot_be_changed_and_are_no_tuples() -> None:
    frozen_map, frozen_list = FrozenMap(a=1), FrozenList([1, 2])
    with pytest.raises(TypeError, match="cannot be changed"):
        frozen_map["b"] = 2
    with pytest.raises(TypeError, match="cannot be changed"):
        frozen_map.clear()
    assert frozen_map == {"a": 1}
    assert hash(frozen_map) == hash(FrozenMap(a=1))
    assert frozen_list == [1, 2]
    assert frozen_list != (1, 2)
    assert {frozen_list: 1, (1, 2): 2} == {(1, 2): 2, frozen_list: 1}
    assert len({frozen_list, (1, 2)}) == 2


def test_map_that_another_thread_changes_is_written_as_it_was(
    codec: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codec releases the GIL now and then: a half-written map must not be read on in another order."""
    monkeypatch.setattr(codec, "reference", None, raising=False)  # no fallback to the reference
    entries: dict[Any, Any] = {f"key {number}": ["x" * 2_500, {number: number}] for number in range(20_000)}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for key in list(entries)[:50]:
                entries[key] = entries.pop(key)
            time.sleep(0)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(8):
            # The same key twice would be refused; a key is missing while the other thread moves it.
            assert 19_999 <= len(codec.decode(codec.encode([entries]))[0]) <= 20_000
    finally:
        stop.set()
        thread.join()
