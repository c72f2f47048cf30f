defmodule DSPex.ConformanceTest do
  @moduledoc """
  The terms that both languages must agree on: conformance/terms-*.tsv, written by real BEAMs.

  A row is a name, the OTP release, the form of the encoding, the source of the term, and the encoding in hexadecimal;
  see conformance/README.md.
  """

  use ExUnit.Case, async: true

  alias DSPex.Python

  @files Path.wildcard(Path.expand("../../../conformance/terms-*.tsv", __DIR__))

  test "there are such files" do
    assert @files != []
  end

  for file <- @files do
    @language if file =~ "elixir", do: :elixir, else: :erlang
    @rows file
          |> File.read!()
          |> String.split("\n", trim: true)
          |> Enum.reject(&String.starts_with?(&1, "#"))
          |> Enum.map(&String.split(&1, "\t"))

    test "#{Path.basename(file)} is what its sources say" do
      compared =
        for [name, _release, _form, source, hex] <- @rows, not unique?(source) do
          assert {name, decoded(hex)} === {name, evaluated(@language, source)}
        end

      assert length(compared) > div(length(@rows), 2)
    end

    test "#{Path.basename(file)} comes back from Python unchanged" do
      for [name, _release, form, _source, hex] <- @rows do
        term = decoded(hex)

        case {Python.ping(term), refused?(name)} do
          {{:ok, %{"payload" => echo}}, false} ->
            assert {name, form, echo} === {name, form, expected(term)}

          {{:error, error}, true} ->
            assert error.kind == :input

          unexpected ->
            flunk("#{name}, #{form}: #{inspect(unexpected)}")
        end
      end
    end
  end

  # Terms of the process that wrote the file, and functions: equal sources give different terms.
  defp unique?(source), do: source =~ ~r/self\(\)|make_ref|open_port|\bfun\b/

  # Maps whose keys are one key in Python, and a pickle.
  defp refused?("merge_" <> _keys), do: true
  defp refused?(name), do: name == "opaque_python"

  # What ErlPort's Erlang half wraps comes back as what it is.
  defp expected({:"$erlport.opaque", :erlang, bytes}),
    do: :erlang.binary_to_term(<<131, bytes::binary>>)

  defp expected(term), do: term

  defp decoded(hex), do: hex |> Base.decode16!(case: :lower) |> :erlang.binary_to_term()

  defp evaluated(:elixir, source) do
    {term, _bindings} = Code.eval_string(source)
    term
  end

  defp evaluated(:erlang, source) do
    {:ok, tokens, _line} = :erl_scan.string(to_charlist(source <> "."))
    {:ok, expressions} = :erl_parse.parse_exprs(tokens)
    {:value, term, _bindings} = :erl_eval.exprs(expressions, :erl_eval.new_bindings())
    term
  end
end
