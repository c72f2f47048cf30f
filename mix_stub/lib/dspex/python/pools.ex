defmodule DSPex.Python.Pools do
  @moduledoc false

  # The supervisor of the pools that the configuration names and of those that DSPex.Python.start_pool/2 adds.

  use Supervisor

  alias DSPex.Python.Pool

  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(pools), do: Supervisor.start_link(__MODULE__, pools, name: __MODULE__)

  @doc """
  Starts a pool; `{:error, {:already_started, pid}}` if there is one of that name.
  """
  @spec start_pool(atom(), keyword()) :: {:ok, pid()} | {:error, term()}
  def start_pool(name, options) do
    Supervisor.start_child(__MODULE__, child_spec_of_pool(name, options))
  end

  @doc """
  Stops a pool that the configuration or `start_pool/2` started.
  """
  @spec stop_pool(atom()) :: :ok | {:error, :not_found}
  def stop_pool(name) do
    with :ok <- Supervisor.terminate_child(__MODULE__, {Pool, name}) do
      Supervisor.delete_child(__MODULE__, {Pool, name})
    end
  end

  @impl true
  def init(pools) do
    children = for {name, options} <- pools, do: child_spec_of_pool(name, options)

    # A pool ends only after ten restarts of its Python in ten seconds; that must not end the application.
    Supervisor.init(children, strategy: :one_for_one, max_restarts: 100, max_seconds: 10)
  end

  defp child_spec_of_pool(name, options), do: Pool.child_spec(Keyword.put(options, :name, name))
end
