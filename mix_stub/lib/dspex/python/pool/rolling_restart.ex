defmodule DSPex.Python.Pool.RollingRestart do
  @moduledoc false

  # Replaces the Pythons of a pool by new ones, one after the other and without a gap. DSPex.Python.Port.Recycling has the way
  # from one Python to its successor.

  alias DSPex.Python.Error
  alias DSPex.Python.Pool.{Messages, Readiness, Routing, Stopping}
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
    case {Routing.size(pool), Stopping.refusal(pool)} do
      {0, _refusal} ->
        {:error, Messages.not_running(pool)}

      {size, nil} ->
        # What it has imported is to be replaced too.
        Template.restart(pool)
        restart(pool, 1..size, Timeout.deadline(@restart_timeout_ms * size))

      {_size, error} ->
        {:error, error}
    end
  end

  defp restart(pool, slots, deadline) do
    with nil <- Enum.find_value(slots, &not_replaced(pool, &1, deadline)),
         nil <- stopped_meanwhile(pool) do
      # They were started with the old code too.
      for {_number, owner, %{spare?: true}} <- Names.workers(pool), do: Owner.renew_spare(owner)
      :ok
    else
      # It was there when this began.
      {:error, %Error{kind: :pool_not_found}} -> {:error, Messages.stopping(pool)}
      error -> error
    end
  end

  # The new Pythons of a pool that is being stopped take no calls.
  defp stopped_meanwhile(pool) do
    error = Stopping.refusal(pool) || if(Stopping.over?(pool), do: Messages.stopping(pool))
    error && {:error, error}
  end

  defp not_replaced(pool, slot, deadline) do
    with nil <- Stopping.refusal(pool),
         {:ok, {owner, _state}} <- Readiness.owner(pool, slot),
         {:ok, successor} <- Owner.successor(owner),
         {:ended, _owner} <- {Recycling.replace(owner, pool, successor), owner} do
      wait_for_successor(pool, slot, owner, deadline)
    else
      {:ok, _owner} -> nil
      {{:error, _error} = error, _owner} -> error
      {:error, _error} = error -> error
      %Error{} = stopping -> {:error, stopping}
      :replacing -> wait_for_successor(pool, slot, current(pool, slot), deadline)
    end
  end

  defp current(pool, slot),
    do: with({owner, _state} <- Names.lookup(:slot, {pool, slot}), do: owner)

  # Another process restarts the pool, or Python has asked for it; or the successor has ended, and its supervisor has started it
  # again. If that fails, this process tries.
  defp wait_for_successor(pool, slot, replaced, deadline) do
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
