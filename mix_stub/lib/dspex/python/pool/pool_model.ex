defmodule DSPex.Python.Pool.PoolModel do
  @moduledoc false

  # The language model of a pool and those of its sessions: their state, a change of them, and the functions that Python calls
  # for them. DSPex.Python.Port.ConfiguredModel keeps the model for Pythons that start later.

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.{Callback, CallerContext, Model}
  alias DSPex.Python.Pool.{ModelChange, Readiness, Routing, Settings}
  alias DSPex.Python.Port.{Names, Owner}
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

      configure = fn -> configure.({:slot, slot}) end

      if session_id,
        do: configure_session(owner, session_id, callbacks, configure),
        else: configure_pool(pool, owner, model, callbacks, deadline, configure)
    end
  end

  defp configure_session(owner, session_id, callbacks, configure) do
    registration = if callbacks != [], do: Callbacks.register(callbacks, owner)

    case configure.() do
      {:ok, _configured} = ok ->
        Owner.model_configured(owner, session_id, {registration, callbacks})
        ok

      {:error, error} ->
        Callbacks.unregister(registration)
        {:error, error}
    end
  end

  defp configure_pool(pool, owner, model, callbacks, deadline, configure) do
    change = ModelChange.begin(pool, owner, callbacks)

    case configure.() do
      {:ok, _configured} = ok ->
        ModelChange.configured(change, model, deadline)
        ok

      {:error, error} ->
        ModelChange.failed(change, error)
        {:error, error}
    end
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
