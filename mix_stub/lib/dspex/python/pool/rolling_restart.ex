defmodule DSPex.Python.Pool.RollingRestart do
  @moduledoc false

  # Replaces the Pythons of a pool by new ones, one after the other and without a gap. DSPex.Python.Port.Recycling has the way
  # from one Python to its successor.

  alias DSPex.Python.Error
  alias DSPex.Python.Pool.{Messages, Readiness, Routing}
  alias DSPex.Python.Port.{Names, Owner, Recycling, Template}
  alias DSPex.Python.Wire.Timeout

  # How long `restart/1` waits for a successor that was asked for before.
  @restart_timeout_ms 120_000
  # How often it looks whether that has happened.
  @poll_ms 2

  @doc """
  Replaces the pool's Pythons by new ones, one after the other, see `DSPex.Python.restart_pool/1`.
  """
  @spec restart(atom()) :: :ok | {:error, Error.t()}
  def restart(pool) do
    case Routing.size(pool) do
      0 ->
        {:error, Messages.not_running(pool)}

      size ->
        # What it has imported is to be replaced too.
        Template.restart(pool)
        restart(pool, 1..size, Timeout.deadline(@restart_timeout_ms * size))
    end
  end

  defp restart(pool, slots, deadline) do
    with nil <- Enum.find_value(slots, &not_replaced(pool, &1, deadline)) do
      # They were started with the old code too.
      for {_number, owner, %{spare?: true}} <- Names.workers(pool), do: Owner.renew_spare(owner)
      :ok
    end
  end

  defp not_replaced(pool, slot, deadline) do
    with {:ok, {owner, _state}} <- Readiness.owner(pool, slot),
         {:ok, successor} <- Owner.successor(owner),
         :ok <- Recycling.replace(owner, pool, successor) do
      nil
    else
      :replacing -> wait_for_successor(pool, slot, deadline)
      {:error, _error} = error -> error
    end
  end

  # Another process restarts the pool, or Python has asked for it. If that fails, this process tries.
  defp wait_for_successor(pool, slot, deadline) do
    {replaced, _state} = Names.lookup(:slot, {pool, slot}) || {nil, nil}
    Process.sleep(@poll_ms)

    case Readiness.owner(pool, slot) do
      {:ok, {^replaced, _state}} ->
        if Timeout.over?(deadline),
          do:
            {:error,
             Error.timeout(@restart_timeout_ms, "start", "another python is being started")},
          else: not_replaced(pool, slot, deadline)

      {:ok, _successor} ->
        nil

      {:error, _pool_not_found} = error ->
        error
    end
  end
end
