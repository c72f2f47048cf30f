defmodule DSPex.Python.Pool.ModelChange do
  @moduledoc false

  # A change of the model of a pool or of a session. It has a process of its own, so that it ends whatever becomes of its caller.
  #
  # If the caller is killed in the middle of it, or its time is over, Python may have the model, or get it later: its functions stay.
  # Then all workers of a pool get the model that is kept. Nothing keeps the model of a session, which has one of the two.

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.{Callback, Model}
  alias DSPex.Python.Port.{ConfiguredModel, Names, Owner}
  alias DSPex.Python.Wire.Timeout

  # `owner` is that of the worker that gets the model by a call, `number` that of `ConfiguredModel.begin/1`.
  @enforce_keys [:pool, :session_id, :owner, :functions, :number, :pid, :monitor]
  defstruct @enforce_keys

  @opaque t :: %__MODULE__{}

  @doc """
  Begins a change: the calling process will configure the worker with the owner `owner` by a call. Python may call the functions of
  the model, `callbacks`, from now on.
  """
  @spec begin(atom(), String.t() | nil, pid(), [Callback.t()]) :: t()
  def begin(pool, session_id, owner, callbacks) do
    caller = self()
    {pid, monitor} = spawn_monitor(fn -> run(caller, pool, session_id, owner, callbacks) end)

    receive do
      {^pid, functions, number} ->
        %__MODULE__{
          pool: pool,
          session_id: session_id,
          owner: owner,
          functions: functions,
          number: number,
          pid: pid,
          monitor: monitor
        }

      {:DOWN, ^monitor, :process, _pid, reason} ->
        exit(reason)
    end
  end

  @doc """
  Keeps the model, which Python has got by the call, and has the other workers of a pool get it; waits for them until the deadline.
  """
  @spec configured(t(), Model.t(), Timeout.deadline()) :: :ok
  def configured(%__MODULE__{pool: pool, owner: owner} = change, model, deadline) do
    Owner.model_configured(owner, change.session_id, change.functions)

    if change.session_id do
      finish(change, {:configured, []})
    else
      # With another change under way this worker is configured again: Python may have had their calls in another order.
      alone? = ConfiguredModel.put(pool, model, change.number)
      others = if alone?, do: List.delete(owners(pool), owner), else: owners(pool)
      finish(change, {:configured, configure(others, deadline)})
    end
  end

  @doc """
  Ends a change whose call has failed.
  """
  @spec failed(t(), Error.t()) :: :ok
  def failed(change, %Error{kind: :timeout}), do: finish(change, :unknown)
  def failed(change, _error), do: finish(change, :refused)

  # The process sees to the workers that are left, which may take for ever. Until then no other change is alone.
  defp finish(%{pid: pid, monitor: monitor}, outcome) do
    send(pid, {self(), outcome})

    if outcome in [:refused, {:configured, []}] do
      receive do
        {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
      end
    else
      Process.demonitor(monitor, [:flush])
      :ok
    end
  end

  defp run(caller, pool, session_id, owner, callbacks) do
    monitor = Process.monitor(caller)
    functions = {if(callbacks != [], do: Callbacks.register(callbacks, owner)), callbacks}
    number = if session_id == nil, do: ConfiguredModel.begin(pool)
    send(caller, {self(), functions, number})

    outcome =
      receive do
        {^caller, outcome} -> outcome
        {:DOWN, ^monitor, :process, _caller, _reason} -> :unknown
      end

    case outcome do
      {:configured, left} ->
        configure(left, :infinity)

      :refused ->
        functions |> elem(0) |> Callbacks.unregister()

      :unknown ->
        Owner.model_perhaps_configured(owner, session_id, functions)
        if session_id == nil, do: configure(owners(pool), :infinity)
    end

    if session_id == nil, do: ConfiguredModel.ended(pool)
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
