defmodule DSPex.Python.Port.WorkerRole do
  @moduledoc false

  # What a worker is among those of its pool: it has a slot, waits as a spare, replaces another worker, or is being replaced.
  # The owner of its port (DSPex.Python.Port.Owner) keeps this, and has changes of it published. DSPex.Python.Port.Slots has
  # the slots, DSPex.Python.Port.Recycling the way from one worker to its successor and the values of `recycling`.

  alias DSPex.Python.Port.{Names, PoolOptions, PoolTally, Recycling, Slots}
  alias DSPex.Telemetry

  # How often a worker that wants to be replaced looks whether it is its turn.
  @recycle_wait_ms 250

  @enforce_keys [:options, :worker, :slot, :recycling]
  defstruct @enforce_keys

  @typedoc "`worker` is the number of the worker."
  @type t :: %__MODULE__{
          options: PoolOptions.t(),
          worker: pos_integer(),
          slot: Slots.slot() | nil,
          recycling: Recycling.state()
        }

  @doc """
  Returns the role with which the calling process begins: that of a successor if it has a predecessor with a slot,
  otherwise with a vacant slot, or as a spare.
  """
  @spec begin(PoolOptions.t(), pos_integer(), pid() | nil) :: t()
  def begin(options, worker, predecessor) do
    role = %__MODULE__{options: options, worker: worker, slot: nil, recycling: nil}

    # A predecessor that drains has been replaced already, by this child of the supervisor before it was started again.
    if predecessor != nil and Slots.has_slot?(options.name, options.size, predecessor),
      do: %{role | recycling: {:standby, predecessor}},
      else: %{role | slot: vacant_slot(options)}
  end

  # A spare that is ready is quicker than a start. It has the slot already, unless the process that had the slot was killed.
  defp vacant_slot(%{name: pool, size: size}) do
    slot = Slots.vacant(pool, size)

    cond do
      slot == nil ->
        nil

      Slots.ready_spare(pool) == nil ->
        Slots.claim(pool, size)

      true ->
        Slots.hand_over(pool, slot, :no_wait)
        nil
    end
  end

  @doc """
  Tells whether the worker waits for a slot.
  """
  @spec spare?(t()) :: boolean()
  def spare?(%__MODULE__{slot: slot, recycling: recycling}), do: slot == nil and recycling == nil

  @doc """
  Tells what a worker without Python does next: starts it, waits and asks again, or leaves because it is not needed.
  """
  @spec next_start(t()) :: {:start, t()} | :wait | :leave
  def next_start(%__MODULE__{recycling: {:standby, predecessor}} = role) do
    # When the predecessor has ended, the supervisor has started it again.
    if Slots.has_slot?(role.options.name, role.options.size, predecessor),
      do: {:start, role},
      else: next_start(%{role | recycling: nil})
  end

  def next_start(%__MODULE__{slot: nil, recycling: nil, options: options} = role) do
    %{name: pool, size: size, standby: standby} = options

    cond do
      slot = vacant_slot(options) -> {:start, %{role | slot: slot}}
      # A spare takes it, or else this one at the next attempt.
      Slots.vacant(pool, size) -> :wait
      # Such as when a Python has crashed while it was draining.
      Slots.spares_before(pool, role.worker) >= standby -> :leave
      # The Pythons that take calls start first.
      Slots.all_ready?(pool, size) -> {:start, role}
      true -> :wait
    end
  end

  def next_start(role), do: {:start, role}

  @doc """
  Gives a worker whose Python is ready the slot of the worker that it replaces, or a vacant one if that has ended
  meanwhile; it leaves if there is none.
  """
  @spec take_over(t()) :: t()
  def take_over(%__MODULE__{recycling: {:standby, predecessor}, options: options} = role) do
    %{name: pool, size: size} = options

    with :gone <- Recycling.take_over(predecessor, pool),
         nil <- Slots.claim(pool, size) do
      leave(role)
    else
      {:ok, slot} -> %{role | recycling: nil, slot: slot}
      slot -> %{role | recycling: nil, slot: slot}
    end
  end

  def take_over(role), do: role

  @doc """
  Has a spare replace the worker of `owner`. It stays a spare if that one has ended meanwhile.
  """
  @spec replace(t(), pid()) :: {:ok | :gone, t()}
  def replace(%__MODULE__{slot: nil, recycling: nil} = role, owner) do
    case Recycling.take_over(owner, role.options.name) do
      {:ok, slot} -> {:ok, %{role | slot: slot}}
      :gone -> {:gone, role}
    end
  end

  @doc """
  Gives a spare the slot; `:taken` if another worker has it.
  """
  @spec take_slot(t(), Slots.slot()) :: {:ok | :taken, t()}
  def take_slot(%__MODULE__{slot: nil, recycling: nil} = role, slot) do
    if Slots.take(role.options.name, slot),
      do: {:ok, %{role | slot: slot}},
      else: {:taken, role}
  end

  @doc """
  Takes the slot from a worker that is replaced; it answers its pending calls and leaves.
  """
  @spec drain(t()) :: t()
  def drain(%__MODULE__{options: options} = role) do
    Slots.leave(options.name, role.slot)
    %{role | slot: nil, recycling: Recycling.drain(options)}
  end

  @doc """
  Gives the slot of a worker whose Python has died to a spare that is ready, if there is one.
  """
  @spec hand_over(t()) :: :ok
  def hand_over(%__MODULE__{slot: nil}), do: :ok

  def hand_over(%__MODULE__{options: %{name: pool}, slot: slot, recycling: recycling}) do
    Slots.leave(pool, slot)
    # The one that was asked to replace this worker may be waiting for it.
    Slots.hand_over(pool, slot, if(recycling == :asked, do: :no_wait, else: :wait))
  end

  @doc """
  Has another worker replace this one, which gets the message `{:recycle, kind, reason}` if it has to wait for its turn.
  """
  @spec recycle(t(), String.t(), String.t(), PoolTally.t() | nil, successor) :: t()
        when successor: Supervisor.child_spec()
  # A spare has no calls and no slot: it starts again.
  def recycle(%__MODULE__{slot: nil} = role, _kind, _reason, _tally, _successor), do: leave(role)

  def recycle(%__MODULE__{options: %{name: pool}} = role, kind, reason, tally, successor) do
    if Names.register(:recycling, pool) do
      if tally, do: PoolTally.add(tally, {:recycled, kind})
      about = %{pool: pool, worker: role.worker, kind: kind, reason: reason}
      Telemetry.pool(:worker_recycled, about)
      Recycling.begin(reason, pool, successor)
      %{role | recycling: :asked}
    else
      # One at a time, so that most of the pool's Pythons have their sessions, and their modules built.
      Process.send_after(self(), {:recycle, kind, reason}, @recycle_wait_ms)
      %{role | recycling: :waiting}
    end
  end

  @doc """
  Has the supervisor end a worker without a slot, and start it again if the pool needs it. Until then it takes no slot.
  """
  @spec leave(t()) :: t()
  def leave(%__MODULE__{slot: nil} = role) do
    if role.recycling != :leaving, do: Recycling.leave(role.options.name)
    %{role | recycling: :leaving}
  end
end
