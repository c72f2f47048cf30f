defmodule DSPex.Python.Cluster.Loads do
  @moduledoc false

  # Knows how busy the pools of other nodes are, from the answers that came from there: nobody is asked for it. What is known
  # loses half of its weight each second, so that a node which was busy once is tried again.

  use GenServer

  alias DSPex.Python.Cluster.Exchange
  alias DSPex.Python.Pool.Membership
  alias DSPex.Python.Port.Names

  @half_life_ms 1_000

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Returns the load of a pool of this node, as it goes with answers; `nil` if there is none.
  """
  @spec own(atom() | nil) :: Exchange.load()
  def own(pool) do
    case Names.lookup(:pool, pool) do
      {_supervisor, settings} ->
        {in_flight, queued} = Membership.load(pool)

        settings
        |> Map.take([:size, :places, :retry, :strict])
        |> Map.merge(%{in_flight: in_flight, queued: queued})

      nil ->
        nil
    end
  end

  @doc """
  Takes note of the load that came with an answer.
  """
  @spec learn(atom(), node(), map()) :: :ok
  def learn(pool, node, load), do: put({pool, node}, load.in_flight + load.queued, load)

  @doc """
  Counts a call that goes to a node, until its answer says more.
  """
  @spec add_call(atom(), node()) :: :ok
  def add_call(pool, node) do
    {calls, load} = row(pool, node)
    put({pool, node}, calls + 1, load)
  end

  @doc """
  Returns how many calls a pool of another node probably has, in flight and waiting.
  """
  @spec calls(atom(), node()) :: number()
  def calls(pool, node), do: pool |> row(node) |> elem(0)

  @doc """
  Returns what the last answer of a node said about its pool; `nil` before the first.
  """
  @spec known(atom(), node()) :: Exchange.load()
  def known(pool, node), do: pool |> row(node) |> elem(1)

  defp row(pool, node) do
    case lookup({pool, node}) do
      [{_key, calls, load, at}] -> {calls * :math.pow(0.5, (now() - at) / @half_life_ms), load}
      [] -> {0, nil}
    end
  end

  # The table may be gone for a moment: without it all nodes are taken for idle.
  defp lookup(key) do
    :ets.lookup(__MODULE__, key)
  rescue
    ArgumentError -> []
  end

  defp put(key, calls, load) do
    :ets.insert(__MODULE__, {key, calls, load, now()})
    :ok
  rescue
    ArgumentError -> :ok
  end

  defp now, do: System.monotonic_time(:millisecond)

  # The process -------------------------------------------------------------------------------------------------------

  @impl true
  def init(nil) do
    :ets.new(__MODULE__, [:public, :named_table, read_concurrency: true, write_concurrency: true])
    :ok = :net_kernel.monitor_nodes(true)
    {:ok, nil}
  end

  # Names of nodes may be new ones each time.
  @impl true
  def handle_info({:nodedown, node}, state) do
    :ets.match_delete(__MODULE__, {{:_, node}, :_, :_, :_})
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}
end
