defmodule DSPex.Python.Pool.Membership do
  @moduledoc false

  # Puts a pool into the group of its name, by which the other nodes find it (DSPex.Python.Cluster): when all of its workers
  # are ready, so that no call of another node waits for a Python that is being started. Out of it again: when none of them has been ready
  # for a while, and before the pool stops, because this process is the pool's last child and so the first to end.
  #
  # Groups are those of `:pg`, in a scope of our own. A group has the version of what nodes exchange in its name: nodes
  # that could not understand each other do not find each other.

  use GenServer

  alias DSPex.Python.Error
  alias DSPex.Python.Pool.{Messages, Queue, Routing}
  alias DSPex.Python.Port.{Connection, Names, PoolOptions}
  alias DSPex.Python.Wire.Timeout

  @scope :dspex_pools
  @version 1

  # How often the process looks whether the workers are ready, before it has joined and afterwards.
  @joining_ms 100
  @joined_ms 1_000
  # A pool without a ready worker leaves after so many looks: a Python that has died is ready again before.
  @unready_looks 5
  @drain_poll_ms 20

  defstruct [:pool, :size, :scope, joined?: false, drained?: false, unready: 0]

  @doc """
  Returns the specification of the process that has the groups of this node.
  """
  @spec scope_spec() :: Supervisor.child_spec()
  def scope_spec, do: %{id: @scope, start: {:pg, :start_link, [@scope]}}

  @doc """
  Returns the version of what nodes exchange.
  """
  @spec version() :: pos_integer()
  def version, do: @version

  @doc false
  def start_link(%PoolOptions{name: pool} = options),
    do: GenServer.start_link(__MODULE__, options, name: Names.via(:membership, pool))

  @doc """
  Lists the nodes that have a pool of this name.
  """
  @spec nodes(atom()) :: [node()]
  def nodes(pool), do: pool |> group(@version) |> members() |> Enum.map(&node/1) |> Enum.uniq()

  @doc """
  Lists the nodes that have a pool of this name and exchange another version.
  """
  @spec other_versions(atom()) :: [{node(), term()}]
  def other_versions(pool) do
    for {:dspex, version, ^pool} = group <- groups(),
        version != @version,
        member <- members(group),
        uniq: true,
        do: {node(member), version}
  end

  @doc """
  Takes a pool of this node out of its group for good.
  """
  @spec leave(atom()) :: :ok
  def leave(pool) do
    with {membership, _value} <- Names.lookup(:membership, pool),
         do: GenServer.call(membership, :leave)

    :ok
  catch
    # It is being stopped.
    :exit, _reason -> :ok
  end

  @doc """
  Takes a pool of this node out of its group for good, and waits until its calls have ended.

  Returns how many are still in flight at the timeout.
  """
  @spec drain(atom(), timeout()) :: {:ok, non_neg_integer()} | {:error, Error.t()}
  def drain(pool, timeout) do
    :ok = Timeout.check_argument!(timeout)

    case Names.lookup(:membership, pool) do
      {membership, _value} ->
        :ok = GenServer.call(membership, :leave)
        wait_until_idle(pool, Timeout.deadline(timeout))

      nil ->
        {:error, Messages.not_running(pool)}
    end
  catch
    # The pool has just been stopped.
    :exit, _reason -> {:error, Messages.not_running(pool)}
  end

  defp wait_until_idle(pool, deadline) do
    {in_flight, queued} = load(pool)

    if in_flight + queued == 0 or Timeout.over?(deadline) do
      {:ok, in_flight + queued}
    else
      Process.sleep(@drain_poll_ms)
      wait_until_idle(pool, deadline)
    end
  end

  @doc """
  Returns how many calls of a pool of this node are in flight, and how many wait.
  """
  @spec load(atom()) :: {non_neg_integer(), non_neg_integer()}
  def load(pool) do
    connections = pool |> Routing.size() |> connections(pool)
    in_flight = connections |> Enum.map(&(Connection.in_flight(&1) || 0)) |> Enum.sum()

    case connections do
      [%Connection{waiting: waiting} | _rest] when waiting != nil ->
        {in_flight, Queue.waiting(waiting)}

      _none ->
        {in_flight, 0}
    end
  end

  defp connections(size, pool),
    do: for(slot <- slots(size), connection = Connection.of(pool, slot), do: connection)

  defp slots(0), do: []
  defp slots(size), do: 1..size

  defp group(pool, version), do: {:dspex, version, pool}

  # The scope may not be running: `:dspex` has not been started, or the scope has just ended.
  defp members(group) do
    :pg.get_members(@scope, group)
  rescue
    ArgumentError -> []
  end

  defp groups do
    :pg.which_groups(@scope)
  rescue
    ArgumentError -> []
  end

  # The process -------------------------------------------------------------------------------------------------------

  @impl true
  def init(%PoolOptions{name: pool, size: size}) do
    # Leaves the group before the pool's workers end.
    Process.flag(:trap_exit, true)
    {:ok, look(%__MODULE__{pool: pool, size: size})}
  end

  @impl true
  def handle_call(:leave, _from, state), do: {:reply, :ok, left(%{state | drained?: true})}

  @impl true
  def handle_info(:look, state), do: {:noreply, look(state)}

  # The groups have ended with it; another scope is started.
  def handle_info({:DOWN, scope, :process, _pid, _reason}, %{scope: scope} = state),
    do: {:noreply, %{state | scope: nil, joined?: false}}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: left(state)

  defp look(state) do
    state = state |> with_scope() |> joined_or_left()
    Process.send_after(self(), :look, if(state.joined?, do: @joined_ms, else: @joining_ms))
    state
  end

  defp with_scope(%{scope: nil} = state) do
    if pid = Process.whereis(@scope), do: %{state | scope: Process.monitor(pid)}, else: state
  end

  defp with_scope(state), do: state

  defp joined_or_left(%{scope: nil} = state), do: state
  defp joined_or_left(%{drained?: true} = state), do: state

  defp joined_or_left(%{joined?: false} = state),
    do: if(ready(state) == state.size, do: join(state), else: state)

  defp joined_or_left(state) do
    cond do
      ready(state) > 0 -> %{state | unready: 0}
      state.unready < @unready_looks -> %{state | unready: state.unready + 1}
      true -> left(state)
    end
  end

  defp ready(%{pool: pool, size: size}),
    do: size |> connections(pool) |> Enum.count(&(&1.port != nil))

  defp join(state) do
    :ok = :pg.join(@scope, group(state.pool, @version), self())
    %{state | joined?: true, unready: 0}
  catch
    # The scope has just ended.
    :exit, _reason -> state
  end

  defp left(%{joined?: true} = state) do
    _left_or_not = :pg.leave(@scope, group(state.pool, @version), self())
    %{state | joined?: false, unready: 0}
  catch
    :exit, _reason -> %{state | joined?: false}
  end

  defp left(state), do: state
end
