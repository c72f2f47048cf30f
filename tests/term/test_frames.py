"""Test frames in parts: the same bytes as in one piece, with large texts and binaries not copied."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erlport_bridge.errors import EncodeError
from erlport_bridge.term import Atom, FrozenMap, pure

# Sizes around 65,536, from which on a text or binary is not copied.
_SIZES = st.sampled_from([0, 1, 65_535, 65_536, 65_537, 200_000])
_LARGE = st.one_of(
    st.builds(lambda size: "x" * size, _SIZES),
    st.builds(lambda size: "ä" * size, _SIZES),
    st.builds(lambda size: b"\xff" * size, _SIZES),
)
_TERMS = st.recursive(
    st.one_of(_LARGE, st.integers(), st.just(Atom("ok"))),
    lambda children: st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=4).map(tuple),
        st.dictionaries(st.one_of(_LARGE, st.tuples(_LARGE, st.integers())), children, max_size=3),
    ),
    max_leaves=8,
)


def _whole_or_error(encode: Callable[..., Any], term: Any, options: dict[str, int]) -> bytes | str:
    try:
        encoded = encode(term, **options)
    except EncodeError as error:
        return str(error)
    return b"".join(encoded) if isinstance(encoded, list) else encoded


@given(term=_TERMS, packet=st.sampled_from([1, 2, 4]), compressed=st.sampled_from([0, 6]))
@settings(max_examples=200)
def test_parts_are_the_bytes_of_encode(codec: ModuleType, term: Any, packet: int, compressed: int) -> None:
    options = {"packet": packet, "compressed": compressed}
    assert _whole_or_error(codec.encode_frame, term, options) == _whole_or_error(pure.encode, term, options)


def test_large_texts_and_binaries_are_not_copied(compiled: ModuleType) -> None:
    text, data = "x" * 1_000_000, bytes(1_000_000)
    parts = compiled.encode_frame({"a": [text, 1, data], "b": 2}, packet=4)
    assert [len(part) for part in parts if len(part) > 100] == [1_000_000, 1_000_000]
    assert sum(map(len, parts)) - 2_000_000 < 100


def test_part_keeps_its_memory_alive_and_is_read_only(compiled: ModuleType) -> None:
    parts = compiled.encode_frame(["x" * 100_000], packet=4)
    assert bytes(parts[1]) == b"x" * 100_000
    with pytest.raises(TypeError):
        parts[1][0] = 0


def test_keys_that_differ_only_in_a_large_part_are_two_keys(compiled: ModuleType) -> None:
    keys = [b"x" * 100_000 + last for last in (b"1", b"2")]
    term = {FrozenMap({key: 1}): 2 for key in keys}
    assert b"".join(compiled.encode_frame(term, packet=4)) == pure.encode(term, packet=4)


def test_term_too_long_for_its_frame_is_refused_with_its_large_parts(compiled: ModuleType) -> None:
    with pytest.raises(EncodeError, match="does not fit in a frame"):
        compiled.encode_frame(["x" * 70_000], packet=2)
