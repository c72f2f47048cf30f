# Writes conformance/terms-elixir.tsv: terms that only Elixir has, and corners that terms-otp*.tsv lack, as this BEAM
# encodes them. Run from the project's root:  elixir conformance/write_terms.exs
sources = [
  datetime_utc: ~S|~U[2024-02-29 23:59:59Z]|,
  datetime_utc_6: ~S|~U[2024-02-29 23:59:59.123456Z]|,
  datetime_utc_3: ~S|~U[2024-02-29 23:59:59.120Z]|,
  datetime_utc_6_zeros: ~S|~U[2024-02-29 23:59:59.000000Z]|,
  datetime_summer:
    ~S|%{~U[2024-07-01 12:00:00.5Z] \| time_zone: "Europe/Berlin", zone_abbr: "CEST", utc_offset: 3600, std_offset: 3600}|,
  datetime_negative:
    ~S|%{~U[2024-07-01 12:00:00Z] \| time_zone: "America/St_Johns", zone_abbr: "NST", utc_offset: -12600}|,
  naive: ~S|~N[1999-12-31 00:00:00]|,
  naive_1: ~S|~N[1999-12-31 00:00:00.0]|,
  naive_year_0: ~S|~N[0000-01-01 00:00:00]|,
  naive_year_10000: ~S|%{~N[1999-12-31 00:00:00] \| year: 10_000}|,
  date: ~S|~D[2000-02-29]|,
  date_first: ~S|~D[0001-01-01]|,
  date_last: ~S|~D[9999-12-31]|,
  date_negative: ~S|Date.new!(-1, 1, 1)|,
  date_impossible: ~S|%{~D[2000-02-29] \| day: 31}|,
  date_other_calendar: ~S|%{~D[2000-02-29] \| calendar: My.Calendar}|,
  date_incomplete: ~S|%{__struct__: Date, year: 2000}|,
  time: ~S|~T[12:34:56]|,
  time_2: ~S|~T[12:34:56.12]|,
  time_6: ~S|~T[12:34:56.120000]|,
  decimal: ~S|%{__struct__: Decimal, sign: 1, coef: 12345, exp: -2}|,
  decimal_negative_zero: ~S|%{__struct__: Decimal, sign: -1, coef: 0, exp: 3}|,
  decimal_nan: ~S|%{__struct__: Decimal, sign: 1, coef: :NaN, exp: 0}|,
  decimal_infinity: ~S|%{__struct__: Decimal, sign: -1, coef: :inf, exp: 0}|,
  decimal_long: ~S|%{__struct__: Decimal, sign: 1, coef: Integer.pow(7, 400), exp: -400}|,
  decimal_too_long: ~S|%{__struct__: Decimal, sign: 1, coef: Integer.pow(10, 5000), exp: 0}|,
  mapset_empty: ~S|MapSet.new()|,
  mapset: ~S|MapSet.new([1, "a", :b, nil, {1, [2]}, [3], %{x: 4}])|,
  mapset_in_mapset: ~S|MapSet.new([MapSet.new([1]), MapSet.new()])|,
  range: ~S|1..10|,
  range_step: ~S|10..1//-3|,
  range_empty: ~S|1..0//1|,
  range_inexact: ~S|0..10//4|,
  range_big: ~S|Range.new(0, Integer.pow(2, 70), 2)|,
  range_without_step: ~S|%{__struct__: Range, first: 1, last: 2}|,
  struct_as_key: ~S|%{~D[2000-02-29] => 1, 1..3 => 2, MapSet.new([1]) => 3}|,
  struct_inside: ~S|{:ok, [%{"at" => ~U[2024-02-29 23:59:59Z]}]}|,
  string_key_struct: ~S|%{"__struct__" => Date}|,
  binary_struct_name: ~S|%{__struct__: "Elixir.Date"}|,
  keys_of_every_kind:
    ~S|%{nil => 1, 2 => 2, 3.5 => 3, "a" => 4, <<255>> => 5, {} => 6, [] => 7, %{} => 8, ~c"ab" => 9, <<1::3>> => 10}|,
  key_improper: ~S"%{[1 | 2] => 1, [[1], [2 | {[3]}]] => 2}",
  key_nested_map: ~S|%{%{[1] => %{"x" => [2]}} => 1, {%{}, [%{}]} => 2}|
]

latin1 = fn term -> :erlang.term_to_binary(term, minor_version: 1) end
utf8 = fn term -> :erlang.term_to_binary(term, minor_version: 2) end

rows =
  for {name, source} <- sources,
      {term, _bindings} = Code.eval_string(source),
      {form, hex} <- [{"default", utf8.(term)}, {"minor1", latin1.(term)}],
      form == "default" or latin1.(term) != utf8.(term) do
    Enum.join([name, System.otp_release(), form, source, Base.encode16(hex, case: :lower)], "\t")
  end

header =
  "# name\totp_release\tform (default = minor_version 2 | minor1 = minor_version 1)\telixir_source\thex of the external term"

File.write!("conformance/terms-elixir.tsv", Enum.map([header | rows], &[&1, "\n"]))
