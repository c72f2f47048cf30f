defmodule DSPex.Python.Port.Slots do
  @moduledoc false

  # Which worker takes which calls of a pool. A worker is one Python with the owner of its port; it has a number, which no
  # other worker of the pool gets. A pool has `size` slots. The owner of a slot publishes its connection, which callers
  # find by the slot (DSPex.Python.Port.Connection.of/2). An owner without a slot is a spare, or replaces another one, or is
  # being replaced.
  #
  # The owners are children of one supervisor (DSPex.Python.Port.Workers), all alike. Each takes a vacant slot when it starts, and becomes a spare
  # if there is none. When a Python ends, its owner hands its slot over to a spare that is ready, and starts again as a spare.

  alias DSPex.Python.Port.{Connection, Names}

  @type slot :: pos_integer()

  @typedoc "What is known of a worker: its connection, its slot, and whether it waits for one."
  @type worker :: %{
          connection: Connection.t(),
          slot: slot() | nil,
          spare?: boolean(),
          failed?: boolean()
        }

  # The spare does nothing else, and answers in microseconds.
  @hand_over_ms 200

  @doc """
  Gives the calling process a vacant slot; `nil` if there is none.
  """
  @spec claim(atom(), pos_integer()) :: slot() | nil
  def claim(pool, size), do: Enum.find(1..size, &take(pool, &1))

  @doc """
  Gives the calling process this slot; `false` if another process has it.
  """
  @spec take(atom(), slot()) :: boolean()
  def take(pool, slot), do: Names.register(:slot, {pool, slot})

  @doc """
  Takes the slot from the calling process.
  """
  @spec leave(atom(), slot()) :: :ok
  def leave(pool, slot), do: Names.unregister(:slot, {pool, slot})

  @doc """
  Tells whether a process has a slot.
  """
  @spec has_slot?(atom(), pos_integer(), pid()) :: boolean()
  def has_slot?(pool, size, owner),
    do: Enum.any?(1..size, &match?({^owner, _model}, Names.lookup(:slot, {pool, &1})))

  @doc """
  Returns a slot that no process has; `nil` if there is none.
  """
  @spec vacant(atom(), pos_integer()) :: slot() | nil
  def vacant(pool, size), do: Enum.find(1..size, &(Names.lookup(:slot, {pool, &1}) == nil))

  @doc """
  Returns a spare of the pool that is ready; `nil` if there is none.
  """
  @spec ready_spare(atom()) :: pid() | nil
  def ready_spare(pool) do
    Enum.find_value(Names.workers(pool), fn
      {_number, pid, %{spare?: true, connection: %{port: port}}} when port != nil -> pid
      _other -> nil
    end)
  end

  @doc """
  Counts the spares of the pool whose number is below `number`, which may be `:infinity`.
  """
  @spec spares_before(atom(), pos_integer() | :infinity) :: non_neg_integer()
  def spares_before(pool, number) do
    # Every number is less than an atom.
    Enum.count(Names.workers(pool), fn {other, _pid, worker} ->
      worker.spare? and other < number
    end)
  end

  @doc """
  Tells whether the worker of each slot is ready.
  """
  @spec all_ready?(atom(), pos_integer()) :: boolean()
  def all_ready?(pool, size),
    do:
      Enum.all?(
        1..size,
        &match?(%Connection{port: port} when port != nil, Connection.of(pool, &1))
      )

  @doc """
  Hands a slot that the calling process has left over to a spare that is ready, if there is one. `:no_wait`: does not wait
  until the spare has it.
  """
  @spec hand_over(atom(), slot(), :wait | :no_wait) :: :ok
  def hand_over(pool, slot, wait) do
    case {ready_spare(pool), wait} do
      {nil, _wait} -> :ok
      {spare, :no_wait} -> GenServer.cast(spare, {:take_slot, slot})
      {spare, :wait} -> GenServer.call(spare, {:take_slot, slot}, @hand_over_ms)
    end

    :ok
  catch
    # The spare has just ended too. The supervisor starts an owner for the slot.
    :exit, _reason -> :ok
  end
end
