defmodule DSPex.Python.Pool.PoolSupervisor do
  @moduledoc false

  # Supervises the pools of the configuration and the pools that DSPex.Python.start_pool/2 adds.

  use Supervisor

  alias DSPex.Python.Pool
  alias DSPex.Python.Pool.Stopping
  alias DSPex.Python.Wire.Keywords

  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(pools), do: Supervisor.start_link(__MODULE__, pools, name: __MODULE__)

  @doc """
  Starts a pool; `{:error, {:already_started, pid}}` if there is a pool of that name, `{:error, :not_started}` if the
  application `:dspex` has not been started.
  """
  @spec start_pool(atom(), keyword()) :: {:ok, pid()} | {:error, term()}
  def start_pool(name, options) do
    child_spec = child_spec_of_pool(name, options)

    unless_stopped({:error, :not_started}, fn ->
      Supervisor.start_child(__MODULE__, child_spec)
    end)
  end

  @doc """
  Stops a pool that the configuration or `start_pool/2` started.
  """
  @spec stop_pool(atom()) :: :ok | {:error, :not_found}
  def stop_pool(name) do
    unless_stopped({:error, :not_found}, fn ->
      # Before, because the supervisor starts and stops no other pool until this one has ended.
      if List.keymember?(Supervisor.which_children(__MODULE__), {Pool, name}, 0),
        do: Stopping.drain(name)

      with :ok <- Supervisor.terminate_child(__MODULE__, {Pool, name}) do
        Supervisor.delete_child(__MODULE__, {Pool, name})
      end
    end)
  end

  @impl true
  def init(pools) do
    with message when message != nil <-
           Keywords.repeated(pools, "config :dspex, DSPex.Python, :pools"),
         do: raise(ArgumentError, message)

    children = for {name, options} <- pools, do: child_spec_of_pool(name, options)

    # A pool ends only by a repeated fault in its own code; the other pools and the application continue.
    Supervisor.init(children, strategy: :one_for_one, max_restarts: 100, max_seconds: 10)
  end

  defp child_spec_of_pool(name, options) do
    # The pool refuses options that are not a keyword list.
    options = if Keyword.keyword?(options), do: Keyword.put(options, :name, name), else: options
    Pool.child_spec(options)
  end

  defp unless_stopped(otherwise, work) do
    work.()
  catch
    :exit, {reason, {GenServer, :call, _call}} when reason in [:noproc, :shutdown, :normal] ->
      otherwise
  end
end
