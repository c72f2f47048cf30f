defmodule DSPex.Application do
  @moduledoc false

  use Application

  alias DSPex.Python.Call.OpenCalls
  alias DSPex.Python.Cluster.{Loads, ModelFunctions}
  alias DSPex.Python.Functions.CallbackRegistry
  alias DSPex.Python.Pool
  alias DSPex.Python.Pool.{Membership, OpenBatches, PoolSupervisor, Stopping}
  alias DSPex.Python.Port.RunStore
  alias DSPex.Suggestion

  @impl true
  def start(_type, _args) do
    pools = pools(Application.get_env(:dspex, DSPex.Python) || [])

    children = [
      {Registry, keys: :unique, name: DSPex.Python.Registry},
      # Before the pools, so that it removes their files after they have ended.
      RunStore,
      {PoolSupervisor, pools},
      # After the pools, which need not start again with these: calls that use the registry get an error of their functions.
      CallbackRegistry,
      OpenCalls,
      OpenBatches,
      # The last, so that other nodes send no calls any more when the pools end.
      ModelFunctions,
      Loads,
      Membership.scope_spec()
    ]

    System.at_exit(fn _status ->
      if Process.whereis(DSPex.Python.Registry), do: Pool.kill_deaf()
    end)

    # A new registry does not know running pools, so they start again with it.
    Supervisor.start_link(children, strategy: :rest_for_one, name: DSPex.Supervisor)
  end

  # Without its pools an application would start, and each call would be refused.
  defp pools(config) do
    for {key, _value} <- config, key != :pools, Suggestion.misspelt(key, [:pools]) do
      raise ArgumentError,
            "unknown key #{inspect(key)} in config :dspex, DSPex.Python (did you mean :pools?)"
    end

    config[:pools] || []
  end

  # Before the processes end that the functions of calls in flight need.
  @impl true
  def prep_stop(state) do
    Stopping.drain_all()
    state
  end
end
