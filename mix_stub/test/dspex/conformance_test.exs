defmodule DSPex.ConformanceTest do
  @moduledoc """
  What both languages must agree on: the terms of conformance/terms-*.tsv, and the bytes of conformance/refused.tsv.

  A row of terms is a name, the OTP release, the form of the encoding, the source of the term, and the encoding in
  hexadecimal; a refused one has the kind of the reason and what a BEAM does instead of release and form. See
  conformance/README.md.
  """

  use ExUnit.Case, async: true

  alias DSPex.Python

  @conformance Path.expand("../../../conformance", __DIR__)
  @files Path.wildcard(Path.join(@conformance, "terms-*.tsv"))

  test "the files exist" do
    assert length(@files) >= 5
  end

  for file <- @files do
    @language if Path.basename(file) =~ "elixir", do: :elixir, else: :erlang
    @rows file
          |> File.read!()
          |> String.split("\n", trim: true)
          |> Enum.reject(&String.starts_with?(&1, "#"))
          |> Enum.map(&String.split(&1, "\t"))

    test "#{Path.basename(file)} has the bytes of its sources" do
      compared =
        for [name, _release, _form, source, hex] <- @rows, not unique?(source) do
          assert {name, bits(current(decoded(hex)))} ===
                   {name, bits(current(evaluated(@language, source)))}
        end

      assert length(compared) > div(length(@rows), 2)
    end

    test "#{Path.basename(file)} comes back from Python unchanged" do
      for [name, _release, form, _source, hex] <- @rows, not of_nowhere?(name) do
        term = decoded(hex)

        case {Python.ping(term), refused?(name)} do
          {{:ok, %{"payload" => echo}}, false} ->
            assert {name, form, bits(echo)} === {name, form, bits(current(expected(term)))}

          {{:error, error}, true} ->
            assert error.kind == :input

          unexpected ->
            flunk("#{name}, #{form}: #{inspect(unexpected)}")
        end
      end
    end
  end

  test "a term that Python refuses is an error of its call" do
    for [name, _kind, "writes", source, hex] <- refused_rows() do
      assert {name, bits(decoded(hex))} === {name, bits(evaluated(:erlang, source))}
      assert {:error, %{kind: :input}} = Python.ping(decoded(hex))
      assert {:ok, %{"payload" => ^name}} = Python.ping(name)
    end
  end

  test "a term in an unusual encoding can be sent in the usual one" do
    for [name, _kind, "reads", source, hex] <- refused_rows() do
      assert {name, bits(decoded(hex))} === {name, bits(evaluated(:erlang, source))}
      assert {:ok, %{"payload" => echo}} = Python.ping(decoded(hex))
      assert {name, bits(echo)} === {name, bits(decoded(hex))}
    end
  end

  test "a term that only some releases of OTP read can be sent by them" do
    for [name, _kind, "differs", source, hex] <- refused_rows(), readable?(hex) do
      assert {name, bits(decoded(hex))} === {name, bits(evaluated(:erlang, source))}
      assert {:ok, %{"payload" => echo}} = Python.ping(decoded(hex))
      assert {name, bits(echo)} === {name, bits(decoded(hex))}
    end
  end

  test "a BEAM refuses the other refused bytes too" do
    rows = for [_name, _kind, "refuses", _source, _hex] = row <- refused_rows(), do: row
    assert length(rows) > 30

    for [name, _kind, _beam, _source, hex] <- rows do
      assert_raise ArgumentError, fn -> {name, decoded(hex)} end
    end
  end

  defp refused_rows do
    Path.join(@conformance, "refused.tsv")
    |> File.read!()
    |> String.split("\n", trim: true)
    |> Enum.reject(&String.starts_with?(&1, "#"))
    |> Enum.map(&String.split(&1, "\t"))
  end

  # Terms of the run that wrote the file, such as pids and functions: evaluating the source again makes another term.
  defp unique?(source),
    do: source =~ ~r/self\(\)|make_ref|alias\(|open_port|erlang:ports|^\(?fun ?\(/

  # Answers are decoded with `:safe`, which accepts references to functions of this node only.
  defp of_nowhere?(name), do: name =~ "of_nowhere"

  # Before OTP 27, 0.0 === -0.0 is true, although their bytes differ.
  defp bits(term), do: {term, :erlang.term_to_binary(term, minor_version: 2)}

  # The rows were written by Elixir 1.14. From 1.15 on MapSet has no field `version`, and sets come back without it.
  if Map.has_key?(MapSet.__struct__(), :version) do
    defp current(term), do: term
  else
    defp current(%{__struct__: MapSet, version: 2} = set),
      do: set |> Map.delete(:version) |> current()

    defp current(%{} = map),
      do: Map.new(:maps.to_list(map), fn {key, value} -> {current(key), current(value)} end)

    defp current([head | tail]), do: [current(head) | current(tail)]

    defp current(tuple) when is_tuple(tuple),
      do: tuple |> Tuple.to_list() |> current() |> List.to_tuple()

    defp current(term), do: term
  end

  # Maps whose keys are one key in Python, and a pickle.
  defp refused?("merge_" <> _keys), do: true
  defp refused?(name), do: name == "opaque_python"

  # Terms that ErlPort's Erlang half wraps come back unwrapped.
  defp expected({:"$erlport.opaque", :erlang, bytes}),
    do: :erlang.binary_to_term(<<131, bytes::binary>>)

  defp expected(term), do: term

  defp readable?(hex) do
    decoded(hex)
    true
  rescue
    ArgumentError -> false
  end

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
