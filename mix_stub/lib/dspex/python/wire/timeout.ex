defmodule DSPex.Python.Wire.Timeout do
  @moduledoc false

  # The timeouts that a call can have, and the deadlines that follow from them.

  # The longest that Erlang's `receive` takes, about 49 days.
  @max_ms 0xFFFFFFFF

  @typedoc "A monotonic time in ms, as `System.monotonic_time(:millisecond)` returns it."
  @type deadline :: integer() | :infinity

  @doc """
  Returns the longest timeout in ms.
  """
  @spec max_ms() :: pos_integer()
  def max_ms, do: @max_ms

  @doc """
  Tells whether `timeout` is valid: 1 to `max_ms/0`, or `:infinity`.
  """
  @spec valid?(term()) :: boolean()
  def valid?(timeout),
    do: timeout == :infinity or (is_integer(timeout) and timeout in 1..@max_ms)

  @doc """
  Checks a timeout that is an argument of its own, and not an option; 0: without waiting.
  """
  @spec check_argument!(term()) :: :ok
  def check_argument!(0), do: :ok

  def check_argument!(timeout) do
    if valid?(timeout),
      do: :ok,
      else:
        raise(
          ArgumentError,
          "expected the timeout itself as an argument, in ms from 0 to #{@max_ms}, or :infinity, got #{inspect(timeout, limit: 5)}"
        )
  end

  @doc """
  Returns the deadline of a call that begins now.
  """
  @spec deadline(timeout()) :: deadline()
  def deadline(:infinity), do: :infinity
  def deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  @doc """
  Tells whether `deadline` has passed.
  """
  @spec over?(deadline()) :: boolean()
  def over?(:infinity), do: false
  def over?(deadline), do: System.monotonic_time(:millisecond) >= deadline

  @doc """
  Returns how long a `receive` may wait until `grace_ms` after `deadline`.
  """
  @spec remaining(deadline(), non_neg_integer()) :: timeout()
  def remaining(:infinity, _grace_ms), do: :infinity

  def remaining(deadline, grace_ms) do
    (deadline + grace_ms - System.monotonic_time(:millisecond)) |> max(0) |> min(@max_ms)
  end
end
