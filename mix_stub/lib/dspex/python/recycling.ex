defmodule DSPex.Python.Recycling do
  @moduledoc false

  # Another Python in place of one that asks for it, `{:R, reason}`, since too many of its threads are stuck.
  #
  # The owner of its port (DSPex.Python.PortClient) has its pool start a second one, which gets its own Python ready
  # while the first works on. Then the two change over: the name of the pool's port and the line of the callers are the
  # second one's from now on, the first gives the answers it still owes, and leaves. So nobody waits for the start.
  #
  # What an owner is doing of this stands in its state under :recycling:
  #
  #     nil                     nothing
  #     :asked                  its successor is being started
  #     {:standby, owner}       it is a successor that is not ready yet
  #     {:retiring, ends_at}    it takes no further calls, and leaves when all are answered, or at that time (monotonic ms)

  require Logger

  alias DSPex.Python.{Calls, Error, Line, PoolOptions, PortClient, Protocol}

  @type state :: nil | :asked | {:standby, pid()} | {:retiring, integer()}

  # A caller that has just looked up the line of its owner writes its call within this time.
  @least_ms 200
  @interval_ms 50

  @doc """
  Has a successor of the calling process started, the owner of the port; gives its new state.
  """
  @spec begin(binary(), PoolOptions.t(), Registry.registry(), term()) :: state()
  def begin(frame, options, registry, key) do
    Logger.warning(
      "python of pool #{inspect(options.name)} is replaced by a new one: #{Protocol.decode_reason(frame)}"
    )

    id = {PortClient, make_ref()}
    child = %{id: id, start: {PortClient, :start_link, [options, registry, key, id]}}
    # Not by this process: its supervisor may just be waiting for its end.
    spawn(fn -> supervisor(registry, options.name, &Supervisor.start_child(&1, child)) end)
    :asked
  end

  @doc """
  The calling process, a successor, is ready: makes it the owner that callers find, and gives the line of that of before.
  `:gone` if it is not there any more, and has been started again by the supervisor.
  """
  @spec take_over(pid(), Registry.registry(), term()) :: {:ok, Line.t()} | :gone
  def take_over(predecessor, registry, key) do
    line = GenServer.call(predecessor, :retire, :infinity)
    {:ok, _owner} = Registry.register(registry, key, nil)
    {:ok, line}
  catch
    :exit, _reason -> :gone
  end

  @doc """
  Gives the place to a successor; the calling process gets the message `:retiring` when it is time for `check/2`.
  """
  @spec retire(PoolOptions.t(), Registry.registry(), term()) :: state()
  def retire(options, registry, key) do
    Registry.unregister(registry, key)
    Process.send_after(self(), :retiring, @least_ms)
    {:retiring, System.monotonic_time(:millisecond) + options.drain_timeout}
  end

  @doc """
  Tells whether a retiring owner may leave; if not, there will be another message.
  """
  @spec check(state(), Calls.t()) :: :leave | :stay
  def check({:retiring, ends_at}, calls) do
    if Calls.count(calls) == 0 or System.monotonic_time(:millisecond) >= ends_at do
      :leave
    else
      Process.send_after(self(), :retiring, @interval_ms)
      :stay
    end
  end

  @doc """
  Has the supervisor end the calling process, and not start it again.
  """
  @spec leave(Registry.registry(), atom(), term()) :: :ok
  def leave(registry, pool, id) do
    spawn(fn ->
      supervisor(registry, pool, fn supervisor ->
        Supervisor.terminate_child(supervisor, id)
        Supervisor.delete_child(supervisor, id)
      end)
    end)

    :ok
  end

  @doc """
  Makes a call that is about another call, `stream_ack` or `cancel`, also in the Pythons that are being replaced, where
  that may run. `answer` is what the Python of `line` has answered; gives that of all together.
  """
  @spec call_predecessors(answer, Line.t(), (Line.t() -> answer | :restarting)) :: answer
        when answer: {:ok, term()} | {:error, Error.t()}
  def call_predecessors(answer, %Line{predecessors: lines}, call) do
    Enum.reduce(lines, answer, &together(&2, call.(&1)))
  end

  defp together({:ok, {:ok, count}}, {:ok, {:ok, more}}) when is_integer(count),
    do: {:ok, {:ok, count + more}}

  defp together({:ok, {:ok, found?}}, {:ok, {:ok, too?}}), do: {:ok, {:ok, found? or too?}}
  defp together(answer, _error_or_gone), do: answer

  defp supervisor(registry, pool, function) do
    with [{supervisor, _value}] <- Registry.lookup(registry, {:pool, pool}),
         do: function.(supervisor)
  catch
    # The pool is being stopped.
    :exit, _reason -> :ok
  end
end
