defmodule DSPex.Python.Wire.TimeoutTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Wire.Timeout

  test "is a number of ms that Erlang's timers take, or :infinity" do
    for timeout <- [1, Timeout.max_ms(), :infinity], do: assert(Timeout.valid?(timeout))
    for other <- [0, -1, 1.0, "1", nil, Timeout.max_ms() + 1], do: refute(Timeout.valid?(other))
  end

  test "ends at a deadline" do
    refute Timeout.over?(Timeout.deadline(60_000))
    assert Timeout.over?(System.monotonic_time(:millisecond))
    assert Timeout.deadline(:infinity) == :infinity
    refute Timeout.over?(:infinity)
  end

  test "leaves a time that `receive` takes" do
    assert Timeout.remaining(:infinity, 45) == :infinity
    assert Timeout.remaining(System.monotonic_time(:millisecond) - 1_000, 45) == 0
    assert Timeout.remaining(Timeout.deadline(60_000), 45) in 1_000..60_045
    assert Timeout.remaining(Timeout.deadline(Timeout.max_ms()), 45) == Timeout.max_ms()
  end
end
