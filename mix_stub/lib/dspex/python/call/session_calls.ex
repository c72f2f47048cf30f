defmodule DSPex.Python.Call.SessionCalls do
  @moduledoc false

  # Configures the language model of a pool or of a session, and closes sessions. DSPex.Python documents each function.

  alias DSPex.Python.Call.{CallOptions, Operation}
  alias DSPex.Python.{Error, Pool}
  alias DSPex.Python.Functions.Model

  @typep result :: {:ok, map()} | {:error, Error.t()}

  @doc """
  Configures the model of the pool, or of the session in the options.
  """
  @spec configure_model(Model.provider(), keyword() | map(), CallOptions.t()) :: result()
  def configure_model(provider, config, %CallOptions{pool: pool, python: python} = options) do
    with {:ok, model} <- Model.checked(provider, config),
         {:ok, {provider, config}, callbacks} <- Model.resolve(model, Pool.caller(pool)) do
      Pool.configure_model(pool, python[:session_id], model, callbacks, fn ->
        # Python refuses every unknown option here, strict or not.
        python = Map.delete(python, :strict)
        Operation.call(:configure_lm, [provider, config, python], options)
      end)
    end
  end

  @doc """
  Closes a session, and ends the registration of its model functions.
  """
  @spec close(String.t(), CallOptions.t()) :: result()
  def close(session_id, options) do
    with {:ok, closed} <- Operation.look_up(:close_session, [session_id], options) do
      Pool.forget_model(options.pool, session_id)
      {:ok, closed}
    end
  end
end
