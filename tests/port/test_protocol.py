"""Test parsing and encoding of the port's messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.errors import DecodeError, EncodeError, ProtocolError
from erlport_bridge.port.protocol import (
    Call,
    Failure,
    Message,
    Result,
    UnreadableCall,
    encode_message,
    parse_message,
)
from erlport_bridge.term import Atom, ImproperList, decode, encode

CALL = (Atom("C"), 7, Atom("math"), Atom("sqrt"), [4])


def test_answer_too_long_for_its_packet_size_says_what_to_do() -> None:
    failure = Failure(3, "builtins.ValueError", "x" * 255, [])
    with pytest.raises(EncodeError, match=r"300 bytes does not fit in a frame of at most 255; .*packet: 4"):
        encode_message(failure, packet=1)


def test_call_is_parsed() -> None:
    assert parse_message(encode(CALL)) == Call(7, "math", "sqrt", [4])


def test_compressed_call_is_parsed() -> None:
    term = (Atom("C"), 7, Atom("math"), Atom("fsum"), [[1.5] * 1000])
    data = encode(term, compressed=9)
    assert data[1:2] == b"P"
    assert parse_message(data) == Call(7, "math", "fsum", [[1.5] * 1000])


def test_message_is_parsed() -> None:
    assert parse_message(encode((Atom("M"), "stray"))) == Message("stray")


@pytest.mark.parametrize("term", [Atom("C"), (Atom("C"),), (Atom("C"), "x", Atom("m"), Atom("f"), []), [CALL], 5])
def test_term_that_is_no_message_is_refused(term: object) -> None:
    with pytest.raises(ProtocolError, match="expected a call or a message"):
        parse_message(encode(term))


@pytest.mark.parametrize("arguments", [{}, None, "text", ("tuple",), 5, ImproperList([1], 2)])
def test_call_whose_arguments_are_no_list_still_has_its_id(arguments: object) -> None:
    event = parse_message(encode((Atom("C"), 7, Atom("math"), Atom("sqrt"), arguments)))
    assert isinstance(event, UnreadableCall)
    assert (event.id, event.module, event.function) == (7, "math", "sqrt")
    assert str(event.error).startswith("expected a list of arguments at arguments, got ")


@pytest.mark.parametrize("rest", [(), (Atom("math"),), ("math", "sqrt", [4]), (Atom("m"), Atom("f"), [], Atom("N"), 1)])
def test_call_in_another_form_still_has_its_id(rest: tuple[object, ...]) -> None:
    event = parse_message(encode((Atom("C"), 7, *rest)))
    assert isinstance(event, UnreadableCall)
    assert event.id == 7
    assert str(event.error).startswith("expected a module, a function and a list of arguments in a call, got ")


def test_call_with_unreadable_arguments_still_has_its_id_for_the_answer() -> None:
    # #{1 => a, 1.0 => b}: keys that Python would merge.
    arguments = b"\x6c\0\0\0\1" + b"\x74\0\0\0\2" + b"\x61\1\x77\1a" + encode(1.0)[1:] + b"\x77\1b" + b"\x6a"
    head = encode(CALL)
    data = head[: head.rindex(encode([4])[1:])] + arguments
    event = parse_message(data)
    assert isinstance(event, UnreadableCall)
    assert (event.id, event.module, event.function) == (7, "math", "sqrt")
    assert isinstance(event.error, DecodeError)
    assert event.error.path == "arguments[0]"


@given(st.integers(0, len(encode(CALL)) - 1))
def test_truncated_call_is_a_typed_error_or_an_unreadable_call(length: int) -> None:
    try:
        event = parse_message(encode(CALL)[:length])
    except DecodeError:
        return
    assert isinstance(event, UnreadableCall)


def test_answers_are_what_erlport_expects() -> None:
    assert decode(b"".join(encode_message(Result(3, {"a": None}), packet=4))[4:]) == (Atom("r"), 3, {"a": None})
    failure = Failure(3, "builtins.ValueError", "no", ["  line 1"])
    assert decode(b"".join(encode_message(failure, packet=1))[1:]) == (
        "e",
        3,
        ("python", "builtins.ValueError", "no", ["  line 1"]),
    )


def test_path_of_an_unencodable_result_begins_at_the_result() -> None:
    with pytest.raises(EncodeError) as raised:
        encode_message(Result(3, {"a": [object()]}), packet=4)
    assert raised.value.path == '["a"][0]'
