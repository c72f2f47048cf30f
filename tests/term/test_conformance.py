"""Test both codecs with the terms of ``conformance/``, which real BEAMs wrote."""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from erlport_bridge.errors import DecodeError
from erlport_bridge.term import (
    Atom,
    FrozenList,
    FrozenMap,
    ImproperList,
    OtpErlangBinary,
    OtpErlangPid,
)

Rows = Callable[[str], Any]

OTP_FILES = ("terms-otp25.tsv", "terms-otp27.tsv")
FILES = (*OTP_FILES, "terms-corners.tsv")

# Rows that a BEAM may write in more than one form (the order of a map), or that keep the form they came in (funs).
MORE_THAN_ONE_FORM = {"struct_date", "struct_mapset", "fun_local", "fun_env", "opaque_erlang"}

# Part of the error's reason for each kind in refused.tsv.
REASONS = {
    "merged_keys": "one key in Python",
    "pickle": "a pickle is never loaded",
    "opaque": "opaque term",
    "depth": "nests deeper than",
    "float": "a float that is|a float written as",
    "tag": "unknown tag|LOCAL_EXT|ATOM_CACHE_REF|a compressed term inside a term",
    "size": "a compressed term (of|that inflates to more|that does not inflate)",
    "cut": "ends early|are left",
    "atom": "an atom (that is not UTF-8|of 256 characters)",
    "bits": "a bitstring of",
    "sign": "an integer with the sign 2",
    "fun": "where an arity must stand",
}

# Rows that differ between runs of a BEAM: only rows of one file are the same term.
OF_ONE_RUN = {"self", "ref", "port", "fun_local", "fun_env", "opaque_erlang"}


def refused(name: str) -> bool:
    return name.startswith("merge_") or name == "opaque_python"


def holds_a_fun(name: str) -> bool:
    """Return whether the row holds a fun, which keeps the form of its atoms, whatever the minor version."""
    return name.startswith("fun_") and not name.startswith("fun_ext")


def test_at_least_300_terms_are_there_in_both_minor_versions(rows: Rows) -> None:
    in_form: dict[str, set[str]] = {"minor1": set(), "default": set()}
    for row in rows("terms-corners.tsv"):
        for form in in_form if row.form == "both" else {row.form} & in_form.keys():
            in_form[form].add(row.name)
    assert in_form["minor1"] == in_form["default"]
    assert len(in_form["default"]) >= 300


@pytest.mark.parametrize("file_name", FILES)
def test_every_row_is_the_term_of_its_name(codec: ModuleType, rows: Rows, file_name: str) -> None:
    terms: dict[str, Any] = {}
    for row in rows(file_name):
        if not refused(row.name):
            term = codec.decode(row.encoded)
            if not holds_a_fun(row.name):
                assert term == terms.setdefault(row.name, term), row[:3]
    assert len(terms) > 150


@pytest.mark.parametrize("file_name", OTP_FILES)
def test_keys_that_python_would_merge_and_pickles_are_refused(codec: ModuleType, rows: Rows, file_name: str) -> None:
    names = set()
    for row in rows(file_name):
        if refused(row.name):
            names.add(row.name)
            with pytest.raises(DecodeError, match="one key in Python" if row.name != "opaque_python" else "pickle"):
                codec.decode(row.encoded)
    assert len(names) == 6


def test_both_releases_wrote_the_same_terms(codec: ModuleType, rows: Rows) -> None:
    of_25, of_27 = (
        {row.name: codec.decode(row.encoded) for row in rows(file_name) if not refused(row.name)}
        for file_name in OTP_FILES
    )
    shared = {name for name in of_25 if name in of_27 and name not in OF_ONE_RUN and not name.startswith("rand_")}
    assert len(shared) > 80
    for name in shared:
        assert of_25[name] == of_27[name], name


@pytest.mark.parametrize("file_name", ["terms-otp27.tsv", "terms-corners.tsv"])
def test_terms_come_back_byte_for_byte(codec: ModuleType, rows: Rows, file_name: str) -> None:
    all_rows = [row for row in rows(file_name) if not refused(row.name)]
    defaults = {row.name: row.encoded for row in all_rows if row.form in ("default", "both")}
    compared = 0
    for row in all_rows:
        if row.name.startswith("opaque_") or (holds_a_fun(row.name) and row.form == "minor1"):
            continue
        if row.name in defaults and row.name not in MORE_THAN_ONE_FORM:
            assert codec.encode(codec.decode(row.encoded)) == defaults[row.name], row[:3]
            compared += 1
    assert compared > 300


@pytest.mark.parametrize("file_name", OTP_FILES)
def test_funs_keep_their_bytes(codec: ModuleType, rows: Rows, file_name: str) -> None:
    for row in rows(file_name):
        if row.name in ("fun_local", "fun_env") and row.form != "zlib":
            assert codec.encode(codec.decode(row.encoded)) == row.encoded


def test_opaque_erlang_term_is_the_pid_inside_and_is_sent_bare(codec: ModuleType, rows: Rows) -> None:
    by_name = {(row.name, row.form): row.encoded for row in rows("terms-otp27.tsv")}
    pid = codec.decode(by_name["opaque_erlang", "default"])
    assert isinstance(pid, OtpErlangPid)
    assert codec.encode(pid) == by_name["self", "default"]


def test_opaque_terms_of_every_kind_are_sent_bare(codec: ModuleType, rows: Rows) -> None:
    names = set()
    for row in rows("terms-corners.tsv"):
        if row.name.startswith("opaque_"):
            wrapped = row.source.split("<<")[1].split(">>")[0]
            assert codec.encode(codec.decode(row.encoded)) == bytes([131, *map(int, wrapped.split(", "))]), row[:3]
            names.add(row.name)
    assert len(names) == 6


def test_forms_that_no_beam_writes_any_more_are_the_terms_of_their_sources(
    codec: ModuleType, rows: Rows, ask_beam: Callable[[str], str]
) -> None:
    all_rows = rows("terms-by-hand.tsv")
    assert len(all_rows) > 60
    for row in all_rows:
        encoded = codec.encode(codec.decode(row.encoded))
        assert ask_beam(f"{row.encoded.hex()} {encoded.hex()}") == "true", row[:4]


def test_every_refused_row_is_refused_for_its_reason(codec: ModuleType, refused_rows: list[Any]) -> None:
    assert {row.kind for row in refused_rows} == REASONS.keys()
    for row in refused_rows:
        with pytest.raises(DecodeError, match=REASONS[row.kind]) as raised:
            codec.decode(row.encoded)
        assert 0 <= raised.value.offset <= max(len(row.encoded), 106), row[:3]


@pytest.mark.usefixtures("elixir_1_14")
def test_structs_of_elixir_come_back_as_the_same_structs(
    codec: ModuleType, rows: Rows, ask_beam: Callable[[str], str]
) -> None:
    for row in rows("terms-elixir.tsv"):
        encoded = codec.encode(codec.decode(row.encoded))
        assert ask_beam(f"{row.encoded.hex()} {encoded.hex()}") == "true", row[:4]


def test_structs_of_elixir_are_values_of_python(codec: ModuleType, rows: Rows) -> None:
    terms = {row.name: codec.decode(row.encoded) for row in rows("terms-elixir.tsv")}
    summer = timezone(timedelta(hours=2))
    expected = {
        "datetime_utc": datetime(2024, 2, 29, 23, 59, 59, tzinfo=timezone.utc),
        "datetime_utc_3": datetime(2024, 2, 29, 23, 59, 59, 120_000, tzinfo=timezone.utc),
        "datetime_summer": datetime(2024, 7, 1, 12, 0, 0, 500_000, tzinfo=summer),
        "naive": datetime(1999, 12, 31),
        "date": date(2000, 2, 29),
        "time_2": time(12, 34, 56, 120_000),
        "decimal": Decimal("123.45"),
        "decimal_infinity": Decimal("-Infinity"),
        "mapset": {1, "a", Atom("b"), None, (1, FrozenList([2])), FrozenList([3]), FrozenMap({Atom("x"): 4})},
        "mapset_in_mapset": {frozenset({1}), frozenset()},
        "range": range(1, 11),
        "range_step": range(10, 0, -3),
        "range_empty": range(1, 1),
        "struct_as_key": {date(2000, 2, 29): 1, range(1, 4): 2, frozenset({1}): 3},
        "string_key_struct": {"__struct__": Atom("Elixir.Date")},
        "key_improper": {
            ImproperList([1], 2): 1,
            FrozenList([FrozenList([1]), ImproperList([2], (FrozenList([3]),))]): 2,
        },
    }
    for name, value in expected.items():
        assert terms[name] == value, name
        assert isinstance(terms[name], type(value)), name
    assert terms["decimal_nan"].is_nan()
    assert terms["keys_of_every_kind"][OtpErlangBinary(b"\x20", 3)] == 10


@pytest.mark.parametrize("name", ["date_negative", "naive_year_10000", "date_impossible", "date_other_calendar"])
def test_struct_beyond_python_stays_a_map_with_its_name(codec: ModuleType, rows: Rows, name: str) -> None:
    terms = [codec.decode(row.encoded) for row in rows("terms-elixir.tsv") if row.name == name]
    assert terms
    for term in terms:
        assert type(term) is dict
        assert term[Atom("__struct__")].startswith("Elixir.")
