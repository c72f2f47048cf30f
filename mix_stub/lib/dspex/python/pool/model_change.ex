defmodule DSPex.Python.Pool.ModelChange do
  @moduledoc false

  # A change of a pool's model. It has a process of its own, so that it ends whatever becomes of its caller: if that is killed in
  # the middle of it, all workers get the model that is kept.

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.{Callback, Model}
  alias DSPex.Python.Port.{ConfiguredModel, Names, Owner}
  alias DSPex.Python.Wire.Timeout

  # `owner` is that of the first worker, `number` that of `ConfiguredModel.begin/1`.
  @enforce_keys [:pool, :owner, :callbacks, :registration, :number, :pid, :monitor]
  defstruct @enforce_keys

  @opaque t :: %__MODULE__{}

  @doc """
  Begins a change: the calling process will configure the first worker, with the owner `owner`, by a call. Python may call the
  functions of the model, `callbacks`, from now on.
  """
  @spec begin(atom(), pid(), [Callback.t()]) :: t()
  def begin(pool, owner, callbacks) do
    caller = self()
    {pid, monitor} = spawn_monitor(fn -> run(caller, pool, owner, callbacks) end)

    receive do
      {^pid, registration, number} ->
        %__MODULE__{
          pool: pool,
          owner: owner,
          callbacks: callbacks,
          registration: registration,
          number: number,
          pid: pid,
          monitor: monitor
        }
    end
  end

  @doc """
  Keeps the model, which the first worker has, and has the other workers get it; waits for them until the deadline.
  """
  @spec configured(t(), Model.t(), Timeout.deadline()) :: :ok
  def configured(%__MODULE__{pool: pool, owner: owner} = change, model, deadline) do
    Owner.model_configured(owner, nil, {change.registration, change.callbacks})

    # With another change under way the first worker is configured again: Python may have had their calls in another order.
    alone? = ConfiguredModel.put(pool, model, change.number)
    others = if alone?, do: List.delete(owners(pool), owner), else: owners(pool)
    finish(change, true, configure(others, deadline))
  end

  @doc """
  Ends a change whose call has failed. If its time was over, Python may yet have the call, and a model whose functions are not there
  any more: it gets the one that is kept after that.
  """
  @spec failed(t(), Error.t()) :: :ok
  def failed(change, %Error{kind: :timeout}), do: finish(change, false, [change.owner])
  def failed(change, _error), do: finish(change, false, [])

  # The process sees to the workers that are left, which may take for ever. Until then no other change is alone.
  defp finish(%{pid: pid, monitor: monitor}, kept?, left) do
    send(pid, {self(), kept?, left})

    if left == [] do
      receive do
        {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
      end
    else
      Process.demonitor(monitor, [:flush])
      :ok
    end
  end

  defp run(caller, pool, owner, callbacks) do
    monitor = Process.monitor(caller)
    registration = if callbacks != [], do: Callbacks.register(callbacks, owner)
    send(caller, {self(), registration, ConfiguredModel.begin(pool)})

    {kept?, left} =
      receive do
        {^caller, kept?, left} -> {kept?, left}
        {:DOWN, ^monitor, :process, _caller, _reason} -> {false, owners(pool)}
      end

    configure(left, :infinity)
    if not kept?, do: Callbacks.unregister(registration)
    ConfiguredModel.ended(pool)
  end

  defp owners(pool), do: for({_number, owner, _worker} <- Names.workers(pool), do: owner)

  # The workers take the model from where it is kept, as those that are started later. Returns those that have not answered.
  defp configure(owners, deadline) do
    answers =
      Task.async_stream(owners, &Owner.configure_model/1,
        max_concurrency: max(length(owners), 1),
        timeout: Timeout.remaining(deadline, 0),
        on_timeout: :kill_task
      )

    for {owner, {:exit, _timeout}} <- Enum.zip(owners, answers), do: owner
  end
end
