defmodule DSPex.Python.Cluster.Loads do
  @moduledoc false

  # Knows how busy the pools of other nodes are: how many calls of this node run there, and from the answers that came from
  # there, how many calls of others; nobody is asked for it. What is known of others loses half of its weight each second, so
  # that a node which was busy once is tried again. A call of this node counts until it has ended, however long it takes.
  #
  # Rows of the table:
  #
  #     {{pool, node}, others, load, at}   the calls of others, and the load as the last answer had it
  #     {{:running, pool, node}, count}    the calls of this node
  #     {ref, pool, node}                  one of these; whoever takes the row counts it down

  use GenServer

  alias DSPex.Python.Cluster.Exchange
  alias DSPex.Python.Pool.{Membership, Settings}

  @half_life_ms 1_000

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Returns the load of a pool of this node, as it goes with answers; `nil` if there is none.
  """
  @spec own(atom() | nil) :: Exchange.load()
  def own(pool) do
    case Settings.find(pool) do
      %{} = settings ->
        {in_flight, queued} = Membership.load(pool)

        settings
        |> Map.take([:size, :places, :retry, :strict])
        |> Map.merge(%{in_flight: in_flight, queued: queued})

      nil ->
        nil
    end
  end

  @doc """
  Makes a call of a pool of another node, which counts there until it has ended, or the calling process has.
  """
  @spec during(atom(), node(), (... -> result)) :: result when result: term()
  def during(pool, node, call) do
    ref = begin(pool, node)

    try do
      call.()
    after
      if count_down(ref), do: GenServer.cast(__MODULE__, {:ended, ref})
    end
  end

  @doc """
  Takes note of the load that came with an answer. `answered` is 1 for that to a call of `during/3`, which the load has not any more,
  otherwise 0.
  """
  @spec learn(atom(), node(), map(), 0 | 1) :: :ok
  def learn(pool, node, load, answered) do
    others = load.in_flight + load.queued - (running(pool, node) - answered)
    insert({{pool, node}, max(others, 0), load, now()})
  end

  @doc """
  Returns how many calls a pool of another node probably has, in flight and waiting.
  """
  @spec calls(atom(), node()) :: number()
  def calls(pool, node) do
    case lookup({pool, node}) do
      [{_key, others, _load, at}] -> running(pool, node) + others * weight(at)
      [] -> running(pool, node)
    end
  end

  @doc """
  Returns what the last answer of a node said about its pool; `nil` before the first.
  """
  @spec known(atom(), node()) :: Exchange.load()
  def known(pool, node) do
    case lookup({pool, node}) do
      [{_key, _others, load, _at}] -> load
      [] -> nil
    end
  end

  defp weight(at), do: :math.pow(0.5, (now() - at) / @half_life_ms)

  defp running(pool, node) do
    case lookup({:running, pool, node}) do
      [{_key, count}] -> count
      [] -> 0
    end
  end

  defp begin(pool, node) do
    ref = make_ref()
    count(pool, node, 1)
    insert({ref, pool, node})
    GenServer.cast(__MODULE__, {:begun, ref, self()})
    ref
  end

  # Tells whether it was counted still.
  defp count_down(ref) do
    case :ets.take(__MODULE__, ref) do
      [{_ref, pool, node}] ->
        count(pool, node, -1)
        # Names of nodes may be new ones each time.
        :ets.match_delete(__MODULE__, {{:running, pool, node}, 0})
        true

      [] ->
        false
    end
  rescue
    ArgumentError -> false
  end

  defp count(pool, node, change) do
    key = {:running, pool, node}
    :ets.update_counter(__MODULE__, key, change, {key, 0})
  rescue
    ArgumentError -> 0
  end

  # The table may be gone for a moment: without it all nodes are taken for idle.
  defp lookup(key) do
    :ets.lookup(__MODULE__, key)
  rescue
    ArgumentError -> []
  end

  defp insert(row) do
    :ets.insert(__MODULE__, row)
    :ok
  rescue
    ArgumentError -> :ok
  end

  defp now, do: System.monotonic_time(:millisecond)

  # The process -------------------------------------------------------------------------------------------------------

  # Its state has the calls that run, by the monitors of their processes, and these monitors by the calls.
  @impl true
  def init(nil) do
    :ets.new(__MODULE__, [:public, :named_table, read_concurrency: true, write_concurrency: true])
    :ok = :net_kernel.monitor_nodes(true)
    {:ok, {%{}, %{}}}
  end

  @impl true
  def handle_cast({:begun, ref, caller}, {calls, monitors}) do
    monitor = Process.monitor(caller)
    {:noreply, {Map.put(calls, monitor, ref), Map.put(monitors, ref, monitor)}}
  end

  def handle_cast({:ended, ref}, {calls, monitors}) do
    {monitor, monitors} = Map.pop(monitors, ref)
    # Of a call that began before this process did there is none.
    if monitor, do: Process.demonitor(monitor, [:flush])
    {:noreply, {Map.delete(calls, monitor), monitors}}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _caller, _reason}, {calls, monitors}) do
    {ref, calls} = Map.pop(calls, monitor)
    count_down(ref)
    {:noreply, {calls, Map.delete(monitors, ref)}}
  end

  # Names of nodes may be new ones each time.
  def handle_info({:nodedown, node}, state) do
    :ets.match_delete(__MODULE__, {{:_, node}, :_, :_, :_})
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}
end
