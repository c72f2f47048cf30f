defmodule DSPex.Python.Port.Workers do
  @moduledoc false

  # Supervises the workers of a pool: the owners of their ports (DSPex.Python.Port.Owner), `size` for the slots and `standby`
  # spares. There is one more while a successor gets ready, or its predecessor drains.
  #
  # A worker that is not needed where it is asks to leave. It is ended for good only if more than `size + standby` remain;
  # otherwise it begins again, with a vacant slot or as a spare. So whoever dies meanwhile, the pool never lacks a worker.

  use Supervisor

  alias DSPex.Python.Port.{Names, PoolOptions}

  # How often a process that ends a worker looks whether another one has done with it.
  @turn_poll_ms 5

  @doc false
  @spec start_link({PoolOptions.t(), [Supervisor.child_spec()]}) :: Supervisor.on_start()
  def start_link({%PoolOptions{name: pool}, owners}),
    do: Supervisor.start_link(__MODULE__, owners, name: Names.via(:workers, pool, length(owners)))

  @impl true
  def init(owners) do
    # A restart only follows a start of Python that worked, which takes some tenths of a second. So not even Pythons that
    # end at every call reach this limit, and the pool never disappears while it is in use.
    Supervisor.init(owners,
      strategy: :one_for_one,
      max_restarts: 100 * length(owners),
      max_seconds: 10
    )
  end

  @doc """
  Starts a further worker; `:stopped` if the pool is being stopped.
  """
  @spec add(atom(), Supervisor.child_spec()) :: Supervisor.on_start_child() | :stopped
  def add(pool, child_spec) do
    with {workers, _needed} <- Names.lookup(:workers, pool),
         do: Supervisor.start_child(workers, child_spec),
         else: (nil -> :stopped)
  catch
    :exit, _reason -> :stopped
  end

  @doc """
  Ends a worker, and starts it again if the pool would have too few without it.
  """
  @spec leave(atom(), pid()) :: :ok
  def leave(pool, owner) do
    with {workers, needed} <- Names.lookup(:workers, pool),
         do: in_turn(pool, fn -> replace_or_delete(workers, needed, owner) end)

    :ok
  catch
    # The pool is being stopped.
    :exit, _reason -> :ok
  end

  # One at a time: two that count the same workers could both be deleted.
  defp in_turn(pool, work) do
    if Names.register(:leaving, pool) do
      work.()
      Names.unregister(:leaving, pool)
    else
      Process.sleep(@turn_poll_ms)
      in_turn(pool, work)
    end
  end

  defp replace_or_delete(workers, needed, owner) do
    children = Supervisor.which_children(workers)

    # Not found: it has ended, and the supervisor has started it again.
    with {id, ^owner, _type, _modules} <- List.keyfind(children, owner, 1) do
      :ok = Supervisor.terminate_child(workers, id)

      if length(children) > needed,
        do: Supervisor.delete_child(workers, id),
        else: Supervisor.restart_child(workers, id)
    end
  end
end
