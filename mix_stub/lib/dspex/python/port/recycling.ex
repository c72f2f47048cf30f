defmodule DSPex.Python.Port.Recycling do
  @moduledoc false

  # Replaces a Python that asks for it, `{:R, reason}`, because too many of its threads are stuck.
  #
  # The owner of its port (DSPex.Python.Port.Owner) has the pool's supervisor start a successor, which gets a Python of its
  # own ready while the first one works on. Then callers find the connection of the successor, and the first owner is
  # draining: it passes on the answers of its pending calls, and leaves. So no caller waits for the start.
  #
  # The owner's state has under :recycling:
  #
  #     nil                   the normal case
  #     :asked                its successor is being started
  #     {:standby, owner}     it is a successor that is not ready yet
  #     {:draining, ends_at}  it takes no further calls, and leaves when none is pending, or at `ends_at` (monotonic ms)

  require Logger

  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Connection, Names, PendingCalls, PoolOptions}
  alias DSPex.Python.Wire.Protocol

  @type state :: nil | :asked | {:standby, pid()} | {:draining, integer()}

  # A caller that has just looked up the connection writes its call within this time.
  @least_ms 200
  @interval_ms 50

  @doc """
  Has the supervisor of `pool` start `successor`, because Python has sent `frame`; returns the new state.
  """
  @spec begin(binary(), atom(), Supervisor.child_spec()) :: state()
  def begin(frame, pool, successor) do
    Logger.warning(
      "python of pool #{inspect(pool)} is replaced by a new one: #{Protocol.decode_reason(frame)}"
    )

    # In a process of its own: the supervisor may be waiting for the end of the calling process.
    spawn(fn -> supervisor(pool, &Supervisor.start_child(&1, successor)) end)
    :asked
  end

  @doc """
  Makes the calling process, a successor that is ready, the owner that callers find.

  Returns the connection of its predecessor; `:gone` if that has ended, and its supervisor has started another one.
  """
  @spec take_over(pid(), atom()) :: {:ok, Connection.t()} | :gone
  def take_over(predecessor, pool) do
    connection = GenServer.call(predecessor, :drain, :infinity)
    Names.register(:port, pool)
    {:ok, connection}
  catch
    :exit, _reason -> :gone
  end

  @doc """
  Begins draining. The calling process gets the message `:check_drained` when it is time for `check/2`.
  """
  @spec drain(PoolOptions.t()) :: state()
  def drain(options) do
    Names.unregister(:port, options.name)
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
  Has the supervisor end the calling process, its child `id`, for good.
  """
  @spec leave(atom(), term()) :: :ok
  def leave(pool, id) do
    spawn(fn ->
      supervisor(pool, fn supervisor ->
        Supervisor.terminate_child(supervisor, id)
        Supervisor.delete_child(supervisor, id)
      end)
    end)

    :ok
  end

  @doc """
  Makes a call about another call, `stream_ack` or `cancel`, also in the Pythons that are being replaced, where the other
  call may run.

  `answer` is the answer of the new Python; returns the answer of all of them together.
  """
  @spec call_predecessors(answer, Connection.t(), (Connection.t() -> answer | :restarting)) ::
          answer
        when answer: {:ok, term()} | {:error, Error.t()}
  def call_predecessors(answer, %Connection{predecessors: predecessors}, call) do
    Enum.reduce(predecessors, answer, &together(&2, call.(&1)))
  end

  defp together({:ok, {:ok, count}}, {:ok, {:ok, more}}) when is_integer(count),
    do: {:ok, {:ok, count + more}}

  defp together({:ok, {:ok, found?}}, {:ok, {:ok, too?}}), do: {:ok, {:ok, found? or too?}}
  defp together(answer, _error_or_restarting), do: answer

  defp supervisor(pool, function) do
    with {supervisor, _value} <- Names.lookup(:pool, pool), do: function.(supervisor)
  catch
    # The pool is being stopped.
    :exit, _reason -> :ok
  end
end
