defmodule DSPex.Python.Pool.Readiness do
  @moduledoc false

  # Waits for the workers of pools: until they are ready, or until the owner of a port that has just ended is there again.

  alias DSPex.Python.{Error, Pool}
  alias DSPex.Python.Pool.{Messages, Routing}
  alias DSPex.Python.Port.Names
  alias DSPex.Python.Wire.Timeout

  # How long a caller sleeps before it looks again for an owner that is being restarted. A restart of the owner (not of
  # Python) takes well under a millisecond.
  @restart_poll_ms 2

  @doc """
  Waits until each worker of the pools is ready, see `DSPex.Python.await_pools/2`.
  """
  @spec await_all([atom()] | :all, timeout()) :: :ok | {:error, Error.t()}
  def await_all(:all, timeout), do: await_all(Names.pools(), timeout)

  def await_all(pools, timeout) do
    deadline = Timeout.deadline(timeout)

    # A failure of one worker lets the next ones be asked no more.
    Enum.find_value(pools, :ok, fn pool ->
      with :ok <- await_ready(pool, deadline), do: nil
    end)
  end

  defp await_ready(pool, deadline) do
    case Routing.size(pool) do
      0 -> {:error, Messages.not_found(pool)}
      size -> Enum.find_value(1..size, :ok, &not_ready(pool, &1, deadline))
    end
  end

  defp not_ready(pool, slot, deadline) do
    timeout = Timeout.remaining(deadline, 0)

    case Pool.call(pool, :ping, [nil], max(timeout, 1), route: {:slot, slot}) do
      {:ok, _pong} -> nil
      # Python has ended just now, and is started again.
      {:error, %Error{kind: :worker_died}} -> not_ready(pool, slot, deadline)
      {:error, _error} = error -> error
    end
  end

  @doc """
  Returns the owner of a slot and the state of its model; waits for one that is being restarted.
  """
  @spec owner(atom(), pos_integer()) :: {:ok, {pid(), term()}} | {:error, Error.t()}
  def owner(pool, slot) do
    case {Names.lookup(:pool, pool), Names.lookup(:slot, {pool, slot})} do
      {nil, _owner} ->
        {:error, Messages.not_found(pool)}

      {_supervisor, {_owner, state} = found} when state != nil ->
        {:ok, found}

      _restarting ->
        Process.sleep(@restart_poll_ms)
        owner(pool, slot)
    end
  end
end
