defmodule DSPex.Python.Pool.PoolModel do
  @moduledoc false

  # The language model of a pool and those of its sessions: their state, a change of them, and the functions that Python calls
  # for them. DSPex.Python.Port.ConfiguredModel keeps the model for Pythons that start later.

  alias DSPex.Python.{Callbacks, Error}
  alias DSPex.Python.Functions.{Callback, CallerContext, Model}
  alias DSPex.Python.Pool.{Readiness, Routing, Settings}
  alias DSPex.Python.Port.{ConfiguredModel, Names, Owner}

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
  Python may call `callbacks` until another model is configured there, or until another Python is started.
  """
  @spec configure(
          atom(),
          String.t() | nil,
          Model.t(),
          [Callback.t()],
          (Routing.t() -> answer)
        ) ::
          answer
        when answer: {:ok, term()} | {:error, Error.t()}
  def configure(pool, session_id, model, callbacks, configure) do
    slot = if session_id, do: Routing.slot_of(session_id, max(Routing.size(pool), 1)), else: 1

    # Waits for an owner that is being restarted: the owner of the port owns the functions too.
    with {:ok, {owner, _state}} <- Readiness.owner(pool, slot) do
      callbacks =
        callbacks
        |> Callback.on_behalf(CallerContext.current())
        |> Callback.quiet(Settings.redact(pool) != nil)

      registration = if callbacks != [], do: Callbacks.register(callbacks, owner)

      case configure.({:slot, slot}) do
        {:ok, _configured} = ok ->
          if session_id == nil, do: ConfiguredModel.put(pool, model)
          Owner.model_configured(owner, session_id, {registration, callbacks})
          if session_id == nil, do: configure_others(pool, owner)
          ok

        error ->
          Callbacks.unregister(registration)
          error
      end
    end
  end

  # The other workers take the model from where it is kept, as those that are started later.
  defp configure_others(pool, owner) do
    others = for {_number, other, _worker} <- Names.workers(pool), other != owner, do: other

    others
    |> Task.async_stream(&Owner.configure_model/1, timeout: :infinity, ordered: false)
    |> Stream.run()
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
