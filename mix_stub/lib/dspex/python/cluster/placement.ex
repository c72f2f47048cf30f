defmodule DSPex.Python.Cluster.Placement do
  @moduledoc false

  # Decides which node gets a call, of those that have a pool of the name.
  #
  #     {:home, key}             always the same node for the same key, as long as it is up: rendezvous hashing, by which only the
  #                              keys of a node move that comes or goes
  #     :any                     this node while its pool has room, then the node with the fewest calls
  #     :least                   the node with the fewest calls
  #     {:node, node}            this node
  #     {:worker, {node, worker}}  this worker: what the call is about runs there
  #
  # Nodes may see each other differently for a while, or for long in a split network. Then a session may be used on two
  # nodes; the store decides who may write.

  alias DSPex.Python.Cluster.Loads
  alias DSPex.Python.Error
  alias DSPex.Python.Pool.{Membership, Queue, Routing}
  alias DSPex.Python.Port.{Connection, Names}

  @type t ::
          Routing.t() | :least | {:node, node()} | {:worker, {node(), pos_integer()}}

  @doc """
  Returns the node that gets a call; `nil` if there is none but those in `tried`.
  """
  @spec node_for(atom(), t(), [node()]) :: node() | nil
  def node_for(_pool, {:worker, {node, _number}}, tried), do: untried(node, tried)
  def node_for(_pool, {:node, node}, tried), do: untried(node, tried)

  def node_for(pool, route, tried) do
    case nodes(pool) -- tried do
      [] -> nil
      [only] -> only
      nodes -> choose(pool, route, nodes)
    end
  end

  @doc """
  Tells whether another node may get the call too.
  """
  @spec movable?(t()) :: boolean()
  def movable?({:worker, _worker}), do: false
  def movable?({:node, _node}), do: false
  def movable?(_route), do: true

  @doc """
  Lists the nodes that have a pool; this node also while its pool is still being started, if no other has one.
  """
  @spec nodes(atom()) :: [node()]
  def nodes(pool) do
    case Membership.nodes(pool) do
      [] -> if Names.lookup(:pool, pool), do: [node()], else: []
      nodes -> nodes
    end
  end

  @doc """
  Returns the node of a session; `nil` if no node has such a pool.
  """
  @spec home(atom(), term()) :: node() | nil
  def home(pool, session_id), do: node_for(pool, {:home, Routing.key(session_id)}, [])

  @doc """
  Returns the error of a call for which there is no node.
  """
  @spec not_found(atom()) :: Error.t()
  def not_found(pool) do
    Error.new(:pool_not_found, "no node has a pool #{inspect(pool)}; #{why(pool)}")
  end

  defp why(pool) do
    connected = Enum.map_join(Node.list(), ", ", &to_string/1)

    case {Membership.other_versions(pool), connected} do
      {[_first | _rest] = others, _connected} ->
        "#{Enum.map_join(others, ", ", &version/1)}, and this node version #{Membership.version()}: " <>
          "run versions of :dspex that exchange the same"

      {[], ""} ->
        "this node is connected to no other: call Node.connect/1, and start the pool on a node"

      {[], connected} ->
        "start it on this node or on one of those that are connected: #{connected}"
    end
  end

  defp version({node, version}), do: "#{node} exchanges version #{inspect(version)}"

  defp untried(node, tried), do: if(node not in tried, do: node)

  defp choose(_pool, {:home, key}, nodes),
    do: Enum.max_by(nodes, &{:erlang.phash2({&1, key}), &1})

  defp choose(pool, :any, nodes) do
    if node() in nodes and room?(pool), do: node(), else: least(pool, nodes)
  end

  defp choose(pool, _least, nodes), do: least(pool, nodes)

  defp room?(pool) do
    case Routing.connection(pool, :any) do
      %Connection{port: port} = connection when port != nil -> not Queue.full?(connection)
      _starting -> false
    end
  end

  # Of several that are equally busy, callers choose different ones.
  defp least(pool, nodes) do
    Enum.min_by(nodes, fn node -> {busy(pool, node), :erlang.phash2({node, self()})} end)
  end

  # A pool in which the call would have to wait comes after all that have room. `false` is before `true`.
  defp busy(pool, node) do
    {calls, load} = load(pool, node)
    places = load[:places]
    {places != nil and calls >= places, calls / max(load[:size] || 1, 1)}
  end

  defp load(pool, node) when node == node() do
    load = Loads.own(pool)
    {if(load, do: load.in_flight + load.queued, else: 0), load}
  end

  defp load(pool, node), do: {Loads.calls(pool, node), Loads.known(pool, node)}
end
