"""Test Python values that become Elixir structs; ``test_conformance`` tests the other direction."""

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import ModuleType
from zoneinfo import ZoneInfo

import pytest

from erlport_bridge.errors import EncodeError
from erlport_bridge.term import Atom, ElixirZone, PreciseDateTime, set_elixir_version
from erlport_bridge.term.structs import to_struct


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 2, 29, 23, 59, 59, 123_456, tzinfo=timezone.utc),
        datetime(2024, 2, 29, 23, 59, 59),
        datetime(2024, 7, 1, 12, tzinfo=ElixirZone("Europe/Berlin", "CEST", 3600, 3600)),
        datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        date(1, 1, 1),
        time(23, 59, 59, 1),
        Decimal("-1.50"),
        Decimal("1E+400"),
        Decimal("-0"),
        Decimal("-Infinity"),
        {1, "a", (2,)},
        frozenset(),
        range(0, 10, 3),
        range(10, 0, -3),
        range(5, 5),
    ],
)
def test_value_comes_back_equal(codec: ModuleType, value: object) -> None:
    again = codec.decode(codec.encode(value))
    assert again == value
    assert codec.encode(again) == codec.encode(value)


def test_zone_of_the_tz_database_is_named_in_elixir() -> None:
    struct = to_struct(datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")))
    assert struct is not None
    zone = [struct[Atom(name)] for name in ("time_zone", "zone_abbr", "utc_offset", "std_offset")]
    assert zone == ["Europe/Berlin", "CEST", 3600, 3600]


@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(0)), ZoneInfo("UTC"), ZoneInfo("Etc/UTC")])
def test_every_utc_is_the_one_zone_that_elixir_knows_without_a_database(codec: ModuleType, zone: timezone) -> None:
    assert codec.decode(codec.encode(datetime(2024, 7, 1, tzinfo=zone))).tzinfo is timezone.utc


def test_value_made_from_a_precise_one_has_the_precision_of_its_microseconds(codec: ModuleType) -> None:
    precise = PreciseDateTime(2024, 1, 1, 0, 0, 0, 120_000)
    precise.precision = 2
    assert codec.decode(codec.encode(precise)).precision == 2
    later = precise + timedelta(microseconds=1)
    assert codec.encode(later) == codec.encode(datetime(2024, 1, 1, 0, 0, 0, 120_001))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (time(1, tzinfo=timezone.utc), "Elixir's Time has no time zone"),
        (datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=5))), "a UTC offset in whole seconds"),
    ],
)
def test_value_that_elixir_cannot_hold_is_an_error_with_its_path(codec: ModuleType, value: object, reason: str) -> None:
    with pytest.raises(EncodeError, match=reason) as raised:
        codec.encode({"at": [value]})
    assert raised.value.path == '["at"][0]'


@pytest.mark.parametrize(("version", "fields"), [("1.14.0", 3), ("1.15.0", 2), ("1.18.4-rc.1", 2), ("2.0.0", 2)])
def test_mapset_has_the_fields_of_the_elixir_that_reads_it(version: str, fields: int) -> None:
    set_elixir_version(version)
    try:
        struct = to_struct({1})
    finally:
        set_elixir_version("1.18.0")
    assert struct is not None
    assert len(struct) == fields


def test_struct_hook_costs_nothing_on_other_maps_and_drops_unknown_names(codec: ModuleType) -> None:
    assert codec.decode(codec.encode({Atom("__struct__"): Atom("Elixir.URI"), Atom("host"): "x"})) == {
        Atom("host"): "x"
    }
    assert codec.decode(codec.encode({Atom("__struct__"): "Elixir.Date"})) == {"__struct__": "Elixir.Date"}
    assert codec.decode(codec.encode({"__struct__": Atom("Elixir.Date"), "year": 1})) == {
        "__struct__": Atom("Elixir.Date"),
        "year": 1,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"sign": 2, "coef": 1, "exp": 0},
        {"sign": 1, "coef": "NaN", "exp": 0},
        {"sign": 1, "coef": -1, "exp": 0},
        {"sign": 1, "coef": 1, "exp": 10**30},
        {"sign": True, "coef": 1, "exp": 0},
    ],
)
def test_malformed_decimal_stays_the_map_it_is(codec: ModuleType, fields: dict[str, object]) -> None:
    struct = {Atom("__struct__"): Atom("Elixir.Decimal"), **{Atom(name): field for name, field in fields.items()}}
    assert codec.decode(codec.encode(struct)) == struct
    assert codec.encode(codec.decode(codec.encode(struct))) == codec.encode(struct)


@pytest.mark.parametrize("offset", [86_400, -90_000, "3600", None])
def test_offset_beyond_a_day_stays_the_map_it_is(codec: ModuleType, offset: object) -> None:
    struct = to_struct(datetime(2024, 7, 1, tzinfo=ElixirZone("X", "Y", 0, 60)))
    assert struct is not None
    struct[Atom("utc_offset")] = offset
    assert codec.decode(codec.encode(struct)) == struct
