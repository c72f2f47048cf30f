defmodule DSPex.Python.Wire.ErrorTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Error

  doctest Error

  @conformance Path.expand("../../../../../conformance/errors.tsv", __DIR__)

  test "has the kinds of Python, and the kinds that only Elixir can see" do
    # A row: kind, type, retryable.
    rows =
      for line <- @conformance |> File.read!() |> String.split("\n", trim: true),
          not String.starts_with?(line, "#") do
        String.split(line, "\t")
      end

    assert rows != []
    kinds = for [kind | _rest] <- rows, do: String.to_existing_atom(kind)

    assert Enum.sort(Error.kinds()) ==
             Enum.sort(kinds ++ [:pool_not_found, :port_closed, :worker_died])
  end

  test "keeps everything that Python sends" do
    details = %{
      "kind" => "timeout",
      "type" => "TimeoutError",
      "message" => "no answer within 5 ms",
      "path" => nil,
      "stage" => "model",
      "retryable" => true,
      "traceback" => ["a", "b"],
      "provider" => "openai"
    }

    error = Error.from_details(details)

    assert %Error{
             kind: :timeout,
             type: "TimeoutError",
             stage: "model",
             retryable: true,
             details: ^details
           } = error

    assert error.traceback == ["a", "b"]
    assert Exception.message(error) == "no answer within 5 ms"
  end

  test "keeps an unknown kind in the details, and makes no atom of it" do
    error = Error.from_details(%{"kind" => "a_kind_of_tomorrow", "message" => "m"})
    assert error.kind == :internal
    assert error.details["kind"] == "a_kind_of_tomorrow"
    assert_raise ArgumentError, fn -> String.to_existing_atom("a_kind_of_" <> "tomorrow") end
  end

  test "is an error, not a crash, for any reason" do
    for reason <- [{:python, "E", nil, nil}, {:python, {1}, "m", :none}, :anything, nil] do
      error = Error.from_exception(reason)
      assert %Error{kind: :internal} = error
      assert Exception.message(error) != ""
    end
  end

  test "is inspected without its traceback and empty fields" do
    error =
      Error.from_details(%{
        "kind" => "input",
        "type" => "ValueError",
        "message" => "expected a string",
        "path" => "inputs.question",
        "traceback" => ["line 1", "line 2"]
      })

    assert inspect(error, width: 200) ==
             ~s|#DSPex.Python.Error<kind: :input, message: "expected a string", path: "inputs.question">|

    assert error.traceback == ["line 1", "line 2"]

    assert inspect(Error.timeout(5, "start", "slow"), width: 200) ==
             ~s|#DSPex.Python.Error<kind: :timeout, message: "no answer within 5 ms: slow", stage: "start", retryable: true>|
  end

  test "is its message as text" do
    assert "#{Error.new(:pool_not_found, "there is none")}" == "there is none"
  end

  test "can be raised" do
    assert_raise Error, "there is none", fn ->
      raise Error.new(:pool_not_found, "there is none")
    end
  end
end
