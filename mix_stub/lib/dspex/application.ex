defmodule DSPex.Application do
  @moduledoc false

  use Application

  alias DSPex.Python.Functions.CallbackRegistry
  alias DSPex.Python.Pool
  alias DSPex.Python.Pool.PoolSupervisor

  @impl true
  def start(_type, _args) do
    pools = Application.get_env(:dspex, DSPex.Python, [])[:pools] || []

    children = [
      {Registry, keys: :unique, name: DSPex.Python.Registry},
      {PoolSupervisor, pools},
      # After the pools, which need not start again with it: calls that use it get an error of their functions.
      CallbackRegistry
    ]

    System.at_exit(fn _status ->
      if Process.whereis(DSPex.Python.Registry), do: Pool.kill_deaf()
    end)

    # A new registry does not know running pools, so they start again with it.
    Supervisor.start_link(children, strategy: :rest_for_one, name: DSPex.Supervisor)
  end
end
