defmodule DSPex.Python.Pool.Stopping do
  @moduledoc false

  # Lets the calls of a pool that stops end within its option `stop_timeout:`. Meanwhile the pool takes no further calls, but
  # those that belong to calls in flight:
  #
  #     calls of tools and other functions that Python has called (DSPex.Python.Functions.Invocation)
  #     parts of a batch that has begun, which their caller marks by the option `:part?` (DSPex.Python.Pool.Dispatch)
  #     calls about one worker: credit of streams, pieces of a model's answer, `cancel`, metrics
  #
  # Each pool has one such process, the last but one of its children: it waits when the supervisor ends it, after the pool has left its
  # cluster and before the queue, the workers and the template process end. A stop of the application stops all pools at the
  # same time, before it ends what their functions need (DSPex.Application).

  use GenServer

  require Logger

  alias DSPex.Python.Error
  alias DSPex.Python.Functions.Invocation
  alias DSPex.Python.Pool.{Membership, Messages, Queue}
  alias DSPex.Python.Port.{Connection, Names, PendingCalls, PoolOptions}
  alias DSPex.Python.Wire.Timeout

  @poll_ms 5
  # What the supervisor allows beyond the option, for a machine that is busy.
  @grace_ms 5_000

  @enforce_keys [:pool, :timeout, :counters, :batches]
  defstruct @enforce_keys ++ [drained?: false]

  @doc false
  def child_spec({%PoolOptions{stop_timeout: timeout}, _counters} = args) do
    %{
      id: __MODULE__,
      start: {__MODULE__, :start_link, [args]},
      shutdown: min(timeout + @grace_ms, Timeout.max_ms())
    }
  end

  @doc false
  def start_link({%PoolOptions{name: pool}, _counters} = args),
    do: GenServer.start_link(__MODULE__, args, name: Names.via(:stopping, pool))

  @doc """
  Lets the calls of a pool end, and returns when none is in flight or its time is over. From now on the pool takes no
  further calls.
  """
  @spec drain(atom()) :: :ok
  def drain(pool) do
    with {process, _batches} <- Names.lookup(:stopping, pool),
         do: GenServer.call(process, :drain, :infinity)

    :ok
  catch
    # It has been stopped meanwhile.
    :exit, _reason -> :ok
  end

  @doc """
  Does so for all pools at the same time.
  """
  @spec drain_all() :: :ok
  def drain_all do
    pools = Names.pools()

    pools
    |> Task.async_stream(&drain/1, timeout: :infinity, max_concurrency: max(length(pools), 1))
    |> Stream.run()
  end

  @doc """
  Tells whether a pool takes a call of the calling process; `whole` tells whether it belongs to no other call.
  """
  @spec takes(atom(), Connection.t(), whole :: boolean()) :: :ok | {:error, Error.t()}
  def takes(pool, %Connection{} = connection, whole) do
    if whole and stopping?(connection) and not Invocation.on_behalf?(),
      do: {:error, Messages.stopping(pool)},
      else: :ok
  end

  @doc """
  Returns the error of what comes from outside while a pool is being stopped or when it is gone; `nil` for a pool that takes calls.
  """
  @spec refusal(atom()) :: Error.t() | nil
  def refusal(pool) do
    case {Names.lookup(:pool, pool), Names.lookup(:stopping, pool)} do
      {nil, _stopping} -> Messages.not_running(pool)
      {_pool, {_process, %{counters: counters}}} -> refusal(pool, Queue.stopping?(counters))
      # It is being started; or is just ending, which is seen by what is asked of it.
      {_pool, nil} -> nil
    end
  end

  defp refusal(pool, true), do: Messages.stopping(pool)
  defp refusal(_pool, false), do: nil

  @doc """
  Tells whether a pool is gone, or its time to stop is over and its Pythons end.
  """
  @spec over?(term()) :: boolean()
  def over?(pool) when is_atom(pool), do: Names.lookup(:stopping, pool) == nil
  # What one node does not take goes to another one.
  def over?(_cluster), do: false

  defp stopping?(%Connection{waiting: nil}), do: false
  defp stopping?(%Connection{waiting: counters}), do: Queue.stopping?(counters)

  @doc """
  Notes that the calling process has begun a batch of several calls, so that a stop waits for all of them; returns what
  `batch_ended/1` takes. `nil`: the pool is being stopped already.
  """
  @spec batch_begun(term()) :: {:ets.tid(), reference()} | nil
  def batch_begun(pool) when is_atom(pool) do
    with {_process, %{batches: batches, counters: counters}} <- Names.lookup(:stopping, pool) do
      batch = {batches, make_ref()}
      # Before the pool is asked, so that a stop sees the batch, or the batch the stop.
      :ets.insert(batches, {elem(batch, 1), self()})
      if Queue.stopping?(counters), do: tap(nil, fn nil -> batch_ended(batch) end), else: batch
    end
  rescue
    # The pool has just ended.
    ArgumentError -> nil
  end

  # In a cluster each part is a call of its own, which another node takes.
  def batch_begun(_cluster), do: nil

  @doc """
  Notes that a batch has ended.
  """
  @spec batch_ended({:ets.tid(), reference()} | nil) :: :ok
  def batch_ended(nil), do: :ok

  def batch_ended({batches, batch}) do
    :ets.delete(batches, batch)
    :ok
  rescue
    ArgumentError -> :ok
  end

  # The process -------------------------------------------------------------------------------------------------------

  @impl true
  def init({%PoolOptions{} = options, counters}) do
    # So that `terminate/2` is called when the supervisor ends this process.
    Process.flag(:trap_exit, true)
    batches = :ets.new(__MODULE__, [:public, write_concurrency: true])
    stopping = %{batches: batches, counters: counters, begun?: false}
    Names.set_value(:stopping, options.name, stopping)

    {:ok,
     %__MODULE__{
       pool: options.name,
       timeout: options.stop_timeout,
       counters: counters,
       batches: batches
     }}
  end

  @impl true
  def handle_call(:drain, _from, state), do: {:reply, :ok, drained(state)}

  @impl true
  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    if reason == :shutdown, do: drained(state)
  end

  defp drained(%{drained?: true} = state), do: state
  defp drained(%{timeout: 0} = state), do: %{state | drained?: true}

  defp drained(state) do
    Membership.leave(state.pool)
    deadline = now() + state.timeout
    # For the owners of its Pythons, who know nothing of the queue.
    stopping = %{batches: state.batches, counters: state.counters, begun?: true}
    Names.set_value(:stopping, state.pool, stopping)
    Queue.stop(state.pool, state.counters, deadline)
    wait(state, deadline, :first)
    Queue.refuse_all(state.pool)
    %{state | drained?: true}
  end

  defp wait(state, deadline, look) do
    left = in_flight(state)

    cond do
      # Two looks: between them a call whose turn has come writes itself into the table of its worker, and one whose worker has
      # died is made again.
      left == 0 and look == :last ->
        :ok

      left == 0 ->
        Process.sleep(@poll_ms)
        wait(state, deadline, :last)

      now() >= deadline ->
        Logger.warning(
          "pool #{inspect(state.pool)} stops; its calls have not ended within #{state.timeout} ms: #{left}",
          pool: state.pool
        )

      true ->
        if look == :first do
          Logger.info(
            "pool #{inspect(state.pool)} stops; its calls in flight may take #{state.timeout} ms: #{left}",
            pool: state.pool
          )
        end

        Process.sleep(@poll_ms)
        wait(state, deadline, :next)
    end
  end

  defp in_flight(state) do
    # Those of workers that are being replaced too.
    calls =
      for {_number, _owner, %{connection: connection}} <- Names.workers(state.pool),
          count = PendingCalls.count_of_callers(connection.pending_calls),
          do: count

    batches = for {_batch, reader} <- :ets.tab2list(state.batches), Process.alive?(reader), do: 1
    Enum.sum(calls) + Queue.not_begun(state.counters) + length(batches)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
