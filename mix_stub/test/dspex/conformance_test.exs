defmodule DSPex.ConformanceTest do
  @moduledoc """
  The terms that both languages must agree on: conformance/terms-*.tsv, written by real BEAMs.

  A row is a name, the OTP release, the form of the encoding, the source of the term, and the encoding in hexadecimal.
  """

  use ExUnit.Case, async: true

  alias DSPex.Python
  alias DSPex.Python.Error

  @files Path.wildcard(Path.expand("../../../conformance/terms-otp*.tsv", __DIR__))

  test "there are such files" do
    assert @files != []
  end

  for file <- @files do
    @rows file
          |> File.read!()
          |> String.split("\n", trim: true)
          |> Enum.reject(&String.starts_with?(&1, "#"))
          |> Enum.map(&String.split(&1, "\t"))

    test "#{Path.basename(file)} is what its sources say" do
      compared =
        for [name, _release, _form, source, hex] <- @rows, {:ok, term} <- [evaluated(source)] do
          assert {name, decoded(hex)} == {name, term}
        end

      # Some sources, such as those of pids, are not expressions.
      assert length(compared) > div(length(@rows), 2)
    end

    test "#{Path.basename(file)} comes back from Python unchanged" do
      for [name, _release, form, _source, hex] <- @rows do
        term = decoded(hex)

        case Python.ping(term) do
          {:ok, %{"payload" => echo}} ->
            assert {name, form, echo} === {name, form, term}

          {:error, error} ->
            assert {name, error.message, refused?(name, error)} == {name, error.message, true}
        end
      end
    end
  end

  # Maps with keys that Python would merge are an error, not a loss.
  defp refused?(_name, %Error{message: message}), do: message =~ "key"

  defp decoded(hex), do: hex |> Base.decode16!(case: :lower) |> :erlang.binary_to_term()

  defp evaluated(source) do
    with {:ok, tokens, _line} <- :erl_scan.string(to_charlist(source <> ".")),
         {:ok, expressions} <- :erl_parse.parse_exprs(tokens) do
      {:value, term, _bindings} = :erl_eval.exprs(expressions, [])
      {:ok, term}
    else
      _no_expression -> :error
    end
  end
end
