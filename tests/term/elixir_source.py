"""Write terms as Elixir source, independently of the external term format (except for identifiers)."""

from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from erlport_bridge.term import Atom, ImproperList, OtpErlangBinary, OtpErlangPid, OtpErlangReference


def elixir_source(term: Any) -> str:
    """Return an Elixir expression, without line breaks, whose value is the term."""
    writers: dict[type, Callable[[Any], str]] = {
        type(None): lambda _: "nil",
        bool: lambda value: str(value).lower(),
        int: str,
        float: lambda value: f"{value:.17e}",  # Elixir wants digits on both sides of the point
        str: lambda value: _bytes(value.encode()),
        bytes: _bytes,
        Atom: lambda value: f":erlang.binary_to_atom({_bytes(value.encode())})",
        list: lambda value: f"[{_listed(value)}]",
        tuple: lambda value: f"{{{_listed(value)}}}",
        ImproperList: lambda value: f"[{_listed(value.items)} | {elixir_source(value.tail)}]",
        dict: lambda value: f"%{{{', '.join(f'{elixir_source(k)} => {elixir_source(v)}' for k, v in value.items())}}}",
        set: lambda value: f"MapSet.new([{_listed(value)}])",
        range: _range,
        date: lambda value: f"~D[{value.isoformat()}]",
        time: lambda value: f"~T[{value.isoformat()}]",
        datetime: _datetime,
        Decimal: _decimal,
        OtpErlangBinary: _bitstring,
        OtpErlangPid: lambda value: _identifier(b"X", value.node, value.id + value.serial + value.creation),
        OtpErlangReference: lambda value: _identifier(
            b"Z" + (len(value.id) // 4).to_bytes(2, "big"), value.node, value.creation + value.id
        ),
    }
    return writers[type(term)](term)


def _listed(items: Any) -> str:
    return ", ".join(map(elixir_source, items))


def _bytes(raw: bytes) -> str:
    return f"<<{', '.join(map(str, raw))}>>"


def _range(value: range) -> str:
    return f"Range.new({value.start}, {value.stop - (1 if value.step > 0 else -1)}, {value.step})"


def _datetime(value: datetime) -> str:
    text = value.replace(tzinfo=None).isoformat()
    return f"~N[{text}]" if value.tzinfo is None else f"~U[{text}Z]"


def _decimal(value: Decimal) -> str:
    sign, digits, exponent = value.as_tuple()
    infinite = exponent == "F"
    coefficient = ":inf" if infinite else "".join(map(str, digits))
    fields = f"sign: {-1 if sign else 1}, coef: {coefficient}, exp: {0 if infinite else exponent}"
    return f"%{{__struct__: Decimal, {fields}}}"


def _bitstring(value: OtpErlangBinary) -> str:
    *whole, last = value.value
    return f"<<{''.join(f'{byte}, ' for byte in whole)}{last >> (8 - value.bits)}::{value.bits}>>"


def _identifier(tag: bytes, node: Any, rest: bytes) -> str:
    name = node.value.encode()
    return f":erlang.binary_to_term({_bytes(bytes([131]) + tag + bytes([119, len(name)]) + name + rest)})"
