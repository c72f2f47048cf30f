defmodule DSPex.Python.Functions.ModelRequests do
  @moduledoc false

  # Knows which process answers which request to a model function. Python gives each request a token, by which it ends
  # the request when its call has ended.

  @registry DSPex.Python.Registry

  @doc """
  Registers the calling process as the one that answers the request with this token.
  """
  @spec register(term()) :: :ok
  def register(token) do
    {:ok, _owner} = Registry.register(@registry, {:model_request, token}, nil)
    :ok
  end

  @doc """
  Kills the process that answers the request with this token; `false` if there is none.
  """
  @spec cancel(term()) :: boolean()
  def cancel(token) do
    running = Registry.lookup(@registry, {:model_request, token})
    for {pid, _value} <- running, do: Process.exit(pid, :kill)
    running != []
  end
end
