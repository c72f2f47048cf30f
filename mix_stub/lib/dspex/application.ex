defmodule DSPex.Application do
  @moduledoc false

  use Application

  alias DSPex.Python.Pool

  @impl true
  def start(_type, _args) do
    pools = Application.get_env(:dspex, DSPex.Python, [])[:pools] || []

    children = [
      {Registry, keys: :unique, name: DSPex.Python.Registry},
      {DSPex.Python.Pools, pools},
      # After the pools, which need not start anew with it: calls that use it go on with an error of their tools.
      DSPex.Python.Callbacks
    ]

    System.at_exit(fn _status ->
      if Process.whereis(DSPex.Python.Registry), do: Pool.kill_deaf()
    end)

    # A new registry knows nothing of running pools, so they start anew with it.
    Supervisor.start_link(children, strategy: :rest_for_one, name: DSPex.Supervisor)
  end
end
