defmodule DSPex.Python.Pool.PoolModel do
  @moduledoc false

  # The language model of a pool and those of its sessions: their state, a change of them, and the functions that Python calls
  # for them. DSPex.Python.Port.ConfiguredModel keeps the model for Pythons that start later.

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.{Callback, CallerContext, Model}
  alias DSPex.Python.Pool.{Readiness, Routing, Settings}
  alias DSPex.Python.Port.{ConfiguredModel, Names, Owner}
  alias DSPex.Python.Wire.Timeout

  @doc """
  Returns the state of the pool's language model: `:none`, `:configured`, or why it could not be configured.
  """
  @spec state(atom()) ::
          {:ok, :none | :configured | {:failed, Error.t()}} | {:error, Error.t()}
  def state(pool) do
    with {:ok, {_owner, state}} <- Readiness.owner(pool, 1), do: {:ok, state}
  end

  @doc """
  Runs `configure`, which configures `model` for the pool or for its session `session_id` by a call of the route that it gets.
  Python may call `callbacks` until another model is configured there, or until another Python is started. A worker that does not
  answer within `timeout`, such as one that is being started, is not waited for: it gets the model as soon as it answers.
  """
  @spec configure(
          atom(),
          String.t() | nil,
          Model.t(),
          [Callback.t()],
          timeout(),
          (Routing.t() -> answer)
        ) ::
          answer
        when answer: {:ok, term()} | {:error, Error.t()}
  def configure(pool, session_id, model, callbacks, timeout, configure) do
    deadline = Timeout.deadline(timeout)
    slot = if session_id, do: Routing.slot_of(session_id, max(Routing.size(pool), 1)), else: 1

    # Waits for an owner that is being restarted: the owner of the port owns the functions too.
    with {:ok, {owner, _state}} <- Readiness.owner(pool, slot) do
      callbacks =
        callbacks
        |> Callback.on_behalf(CallerContext.current())
        |> Callback.quiet(Settings.of(pool).redact != nil)

      registration = if callbacks != [], do: Callbacks.register(callbacks, owner)
      change = if session_id == nil, do: ConfiguredModel.begin(pool)

      case configure.({:slot, slot}) do
        {:ok, _configured} = ok ->
          Owner.model_configured(owner, session_id, {registration, callbacks})

          if session_id == nil do
            # With another change under way the first worker is configured again: Python may have had their calls in another order.
            alone? = ConfiguredModel.put(pool, model, change)
            done? = configure_workers(pool, if(alone?, do: owner), deadline)

            # A worker that has not answered yet changes its model later: until then no change is alone.
            if done?, do: ConfiguredModel.ended(pool)
          end

          ok

        {:error, error} ->
          Callbacks.unregister(registration)
          if session_id == nil, do: configuring_failed(pool, owner, error)
          {:error, error}
      end
    end
  end

  # Python may yet have the call, and a model whose function is not there any more: it gets the one that is kept after that.
  defp configuring_failed(pool, owner, %Error{kind: :timeout}) do
    {:ok, _pid} =
      Task.start(fn ->
        Owner.configure_model(owner)
        ConfiguredModel.ended(pool)
      end)
  end

  defp configuring_failed(pool, _owner, _error), do: ConfiguredModel.ended(pool)

  # The workers take the model from where it is kept, as those that are started later. Returns whether all of them have it.
  defp configure_workers(pool, configured, deadline) do
    workers = for {_number, owner, _worker} <- Names.workers(pool), owner != configured, do: owner

    workers
    |> Task.async_stream(&Owner.configure_model/1,
      max_concurrency: max(length(workers), 1),
      timeout: Timeout.remaining(deadline, 0),
      on_timeout: :kill_task,
      ordered: false
    )
    |> Enum.all?(&match?({:ok, _reply}, &1))
  end

  @doc """
  Ends the registration of the model functions of a session that was closed.
  """
  @spec forget(atom(), String.t()) :: :ok
  def forget(pool, session_id) do
    slot = Routing.slot_of(session_id, max(Routing.size(pool), 1))

    with {owner, _state} <- Names.lookup(:slot, {pool, slot}),
         do: Owner.model_configured(owner, session_id, {nil, []})

    :ok
  end
end
