defmodule DSPex.Python.CallOptionsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.CallOptions

  test "are a keyword list or a map with atom keys" do
    assert CallOptions.new!(timeout: 5, n: 2) == %{timeout: 5, n: 2}
    assert CallOptions.new!(%{timeout: 5}) == %{timeout: 5}
    assert CallOptions.new!([]) == %{}
  end

  test "of any other form raise, without the values, which may be keys" do
    for {options, got} <- [
          {%{"timeout" => "sk-1"}, ~s|the key "timeout"|},
          {[{"timeout", "sk-1"}], ~s|the key "timeout"|},
          {[1], "a list with an element that is no option"},
          {:fast, ":fast"},
          {"dspy.Predict", ~s|"dspy.Predict"|},
          {nil, "nil"},
          {1..2, "1..2"}
        ] do
      error = assert_raise ArgumentError, fn -> CallOptions.new!(options) end

      assert error.message ==
               "expected options as a keyword list or a map with atom keys, got " <> got
    end
  end

  test "have a timeout that Erlang's timers take" do
    # A longer one once ended the process of the port, and with it everybody's calls.
    for timeout <- [0, -1, 1.5, "5", nil, 4_294_967_296, 10_000_000_000_000] do
      refute CallOptions.timeout?(timeout)
      assert_raise ArgumentError, ~r/timeout/, fn -> CallOptions.timeout!(%{timeout: timeout}) end
    end

    for timeout <- [1, 4_294_967_295, :infinity] do
      assert CallOptions.timeout!(%{timeout: timeout}) == timeout
    end

    assert CallOptions.timeout!(%{}) == 30_000
  end

  test "are Python's but for those that this side uses" do
    options = %{pool: :p, serialization_format: :json, timeout: 5, n: 2}
    assert CallOptions.for_execution(options) == {:ok, %{timeout: 5, n: 2}, []}
    assert CallOptions.for_execution(%{options | timeout: :infinity}) == {:ok, %{n: 2}, []}
    assert CallOptions.without_deadline(options) == %{n: 2}
  end
end
