defmodule DSPex.Python.Call.SpanConventionsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Call.SpanConventions
  alias DSPex.Python.JSON

  @spans Path.expand("../../../../../conformance/spans.json", __DIR__)

  test "both languages name spans alike" do
    {:ok, rows} = @spans |> File.read!() |> JSON.decode()
    assert length(rows) > 20

    for %{"span" => span} = row <- rows do
      {name, kind, attributes, events} = SpanConventions.describe(span)
      events = Enum.map(events, &Tuple.to_list/1)
      kind = kind |> Atom.to_string() |> String.upcase()

      assert {span, {name, kind, attributes, events}} ==
               {span, {row["name"], row["kind"], row["attributes"], row["events"]}}
    end
  end
end
