defmodule DSPex.Python.Pool.PoolModel do
  @moduledoc false

  # The language model of a pool and those of its sessions: their state, a change of them, and the functions that Python calls
  # for them. DSPex.Python.Port.ConfiguredModel keeps the model for Pythons that start later.

  alias DSPex.Python.Error
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
  Python may call `callbacks` until another model is configured there, or until another Python is started; calls that run then go on
  with them. A worker that does not answer within `timeout`, such as one that is being started, is not waited for: it gets the model
  as soon as it answers.
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

      change = ModelChange.begin(pool, session_id, owner, callbacks)

      case configure.({:slot, slot}) do
        {:ok, _configured} = ok ->
          ModelChange.configured(change, model, deadline)
          ok

        {:error, error} ->
          ModelChange.failed(change, error)
          {:error, error}
      end
    end
  end

  @doc """
  Ends the registration of the model functions of a session that was closed; calls that run go on with them.
  """
  @spec forget(atom(), String.t()) :: :ok
  def forget(pool, session_id) do
    slot = Routing.slot_of(session_id, max(Routing.size(pool), 1))

    with {owner, _state} <- Names.lookup(:slot, {pool, slot}),
         do: Owner.model_configured(owner, session_id, {nil, []})

    :ok
  end
end
