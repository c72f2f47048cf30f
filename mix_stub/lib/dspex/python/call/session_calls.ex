defmodule DSPex.Python.Call.SessionCalls do
  @moduledoc false

  # Configures the language model of a pool or of a session, and closes sessions. DSPex.Python documents each function.

  alias DSPex.Python.Call.{CallOptions, Observation, Operation}
  alias DSPex.Python.{Cluster, Error, Pool}
  alias DSPex.Python.Functions.Model
  alias DSPex.Python.Pool.PoolModel

  @typep result :: {:ok, map()} | {:error, Error.t()}

  @doc """
  Configures the model of the pool, or of the session in the options.
  """
  @spec configure_model(Model.provider(), keyword() | map(), CallOptions.t()) :: result()
  def configure_model(provider, config, %CallOptions{pool: {:cluster, name}} = options) do
    with :ok <- checked(options),
         {:ok, model} <- Model.checked(provider, config) do
      Observation.span(:configure_lm, options, fn ->
        python = Map.delete(options.python, :strict)
        Cluster.configure_model(name, python[:session_id], model, python, options.timeout)
      end)
    end
  end

  def configure_model(provider, config, %CallOptions{pool: pool, python: python} = options) do
    with :ok <- checked(options),
         {:ok, model} <- Model.checked(provider, config),
         {:ok, {provider, config}, callbacks} <- Model.resolve_checked(model, Pool.caller(pool)) do
      args = [provider, config, Map.delete(python, :strict)]
      call = &Operation.call(:configure_lm, args, %{options | route: &1})
      PoolModel.configure(pool, python[:session_id], model, callbacks, options.timeout, call)
    end
  end

  defp checked(options),
    do: with(:ok <- options.once, do: CallOptions.refuse_others(options, [:session_id]))

  @doc """
  Closes a session, and ends the registration of its model functions.
  """
  @spec close(String.t(), CallOptions.t()) :: result()
  def close(session_id, options) do
    with {:ok, closed} <- Operation.look_among(:close_session, [session_id], options) do
      Cluster.forget_model(options.pool, session_id)
      {:ok, closed}
    end
  end
end
