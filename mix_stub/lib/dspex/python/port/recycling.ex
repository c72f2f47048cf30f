defmodule DSPex.Python.Port.Recycling do
  @moduledoc false

  # Replaces a Python that asks for it, `{:R, kind, reason}`, because too many of its threads are lost and none is free, or it
  # takes too much memory, has served its calls or its time; or for which DSPex.Python.restart_pool/1 asks.
  #
  # The owner of its port (DSPex.Python.Port.Owner) has the supervisor of the workers start a successor, which gets a Python of its
  # own ready while the first one works on. Then callers find the connection of the successor, and the first owner is
  # draining: it passes on the answers of its pending calls, and leaves. So no caller waits for the start. A spare that is
  # ready is the successor of a Python that asks; one that is replaced becomes the next spare.
  #
  # A Python that asks is replaced sooner or later: its successor tries to start until it is ready. If restart_pool/1 asks and the
  # successor cannot start, that is its error, and the first Python stays.
  #
  # The owner's state has under :recycling:
  #
  #     nil                   the normal case
  #     :waiting              another Python of the pool is being replaced; it is this one's turn afterwards
  #     :asked                its successor is being started
  #     {:standby, owner}     it is a successor that is not ready yet
  #     {:draining, ends_at}  it takes no further calls, and leaves when none is pending, or at `ends_at` (monotonic ms)
  #     :leaving              it waits for its end

  require Logger

  alias DSPex.Python.Error
  alias DSPex.Python.Port.{PendingCalls, PoolOptions, Slots, Workers}

  @type state :: nil | :waiting | :asked | {:standby, pid()} | {:draining, integer()} | :leaving

  # A caller that has just looked up the connection writes its call within this time.
  @least_ms 200
  @interval_ms 50

  @doc """
  Has a spare of `pool` replace the calling process, or the supervisor start `successor`.
  """
  @spec begin(String.t(), atom(), Supervisor.child_spec()) :: :ok
  def begin(reason, pool, successor) do
    Logger.warning("a new python is being started for pool #{inspect(pool)}: #{reason}",
      pool: pool
    )

    owner = self()

    # In a process of its own: the supervisor may be waiting for the end of the calling process.
    spawn(fn ->
      if not spare_replaces?(Slots.ready_spare(pool), owner),
        do: Workers.add(pool, successor)
    end)

    :ok
  end

  defp spare_replaces?(nil, _owner), do: false

  defp spare_replaces?(spare, owner) do
    # `:gone`: the owner has ended meanwhile, and has left its slot to the spare.
    GenServer.call(spare, {:replace, owner}) in [:ok, :gone]
  catch
    # The spare has ended.
    :exit, _reason -> false
  end

  @doc """
  Replaces the Python of `owner` by that of `successor`, and waits until callers find the new one.

  Returns the error if the new Python cannot be started; then the first one stays. `:ended`: the successor has ended before it was
  ready, since it was killed, or the pool is being stopped; or the first Python has ended, and another one has its place.
  """
  @spec replace(pid(), atom(), Supervisor.child_spec()) :: :ok | :ended | {:error, Error.t()}
  def replace(owner, pool, successor) do
    Logger.info(
      "a new python is being started for pool #{inspect(pool)}: restart_pool/1 was called"
    )

    case Workers.add(pool, successor) do
      {:ok, pid} ->
        with {:error, error} <- await_ready(pid) do
          Workers.leave(pool, pid)
          GenServer.cast(owner, :not_replaced)
          {:error, error}
        end

      {:error, reason} ->
        GenServer.cast(owner, :not_replaced)
        {:error, Error.new(:internal, "no further worker can be started: #{inspect(reason)}")}

      :stopped ->
        :ended
    end
  end

  defp await_ready(successor) do
    GenServer.call(successor, :await_ready, :infinity)
  catch
    :exit, _reason -> :ended
  end

  @doc """
  Makes the calling process, a successor that is ready, the owner that callers find.

  Returns the slot of its predecessor; `:gone` if that has ended or has no slot any more, or if another process has taken
  the slot.
  """
  @spec take_over(pid(), atom()) :: {:ok, Slots.slot()} | :gone
  def take_over(predecessor, pool) do
    slot = GenServer.call(predecessor, :drain, :infinity)

    if slot != nil and Slots.take(pool, slot) do
      Logger.info("python of pool #{inspect(pool)} is replaced by a new one")
      {:ok, slot}
    else
      :gone
    end
  catch
    :exit, _reason -> :gone
  end

  @doc """
  Begins draining. The calling process gets the message `:check_drained` when it is time for `check/2`.
  """
  @spec drain(PoolOptions.t()) :: state()
  def drain(options) do
    Process.send_after(self(), :check_drained, @least_ms)
    {:draining, System.monotonic_time(:millisecond) + options.drain_timeout}
  end

  @doc """
  Tells whether a draining owner may leave. If not, another message `:check_drained` follows.
  """
  @spec check(state(), PendingCalls.t()) :: :leave | :stay
  def check({:draining, ends_at}, calls) do
    if PendingCalls.count(calls) == 0 or System.monotonic_time(:millisecond) >= ends_at do
      :leave
    else
      Process.send_after(self(), :check_drained, @interval_ms)
      :stay
    end
  end

  @doc """
  Has the supervisor end the calling process, and start it again if the pool needs it.
  """
  @spec leave(atom()) :: :ok
  def leave(pool) do
    owner = self()
    spawn(fn -> Workers.leave(pool, owner) end)
    :ok
  end
end
