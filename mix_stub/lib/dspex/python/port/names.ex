defmodule DSPex.Python.Port.Names do
  @moduledoc false

  # The registered names of a pool's processes. Each name has a value that others may read.
  #
  #     {:pool, pool}              its supervisor
  #     {:slot, {pool, slot}}      the owner of the port whose Python takes the calls of this slot, 1 to `size`
  #     {:worker, {pool, number}}  the owner of the port of a worker, whatever it does
  #     {:workers, pool}           the supervisor of these owners; its value is how many the pool needs
  #     {:recycling, pool}         the owner of a Python that is being replaced; one at a time
  #     {:leaving, pool}           the process that ends a worker; one at a time
  #     {:template, pool}          the process that has a template process
  #     {:log, pool}               the process that writes its log
  #     {:model, pool}             the process that keeps its model
  #     {:queue, pool}             the process with the callers that wait for a worker
  #     {:membership, pool}        the process by which other nodes find it
  #     {:stopping, pool}          the process that lets its calls end when it stops; its value has the batches in flight
  #     {:stop, pool}              the process that stops it for DSPex.Python.stop_pool/1

  @registry DSPex.Python.Registry

  @type kind ::
          :pool
          | :slot
          | :worker
          | :workers
          | :recycling
          | :leaving
          | :template
          | :log
          | :model
          | :queue
          | :membership
          | :stopping
          | :stop
  @type name :: atom() | {atom(), pos_integer()}

  @doc """
  Returns the name for `GenServer.start_link/3` and the like.
  """
  @spec via(kind(), name(), term()) :: GenServer.name()
  def via(kind, name, value \\ nil), do: {:via, Registry, {@registry, {kind, name}, value}}

  @doc """
  Tells whether pools can be started: whether `:dspex` has been started.
  """
  @spec available?() :: boolean()
  def available?, do: Process.whereis(@registry) != nil

  @doc """
  Returns the process of that name and its value; `nil` if there is none, or if `:dspex` has not been started.
  """
  @spec lookup(kind(), name()) :: {pid(), term()} | nil
  def lookup(kind, name) do
    case Registry.lookup(@registry, {kind, name}) do
      [{pid, value}] -> {pid, value}
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end

  @doc """
  Gives the name to the calling process; `false` if another process has it.
  """
  @spec register(kind(), name(), term()) :: boolean()
  def register(kind, name, value \\ nil),
    do: match?({:ok, _registry}, Registry.register(@registry, {kind, name}, value))

  @doc """
  Takes the name from the calling process.
  """
  @spec unregister(kind(), name()) :: :ok
  def unregister(kind, name), do: Registry.unregister(@registry, {kind, name})

  @doc """
  Sets the value of a name of the calling process.
  """
  @spec set_value(kind(), name(), term()) :: :ok
  def set_value(kind, name, value) do
    {_new, _old} = Registry.update_value(@registry, {kind, name}, fn _old -> value end)
    :ok
  end

  @doc """
  Lists the names of all pools; raises `ArgumentError` if `:dspex` has not been started.
  """
  @spec pools() :: [atom()]
  def pools, do: Registry.select(@registry, [{{{:pool, :"$1"}, :_, :_}, [], [:"$1"]}])

  @doc """
  Lists the workers of a pool with the values of their names, the oldest first.
  """
  @spec workers(atom()) :: [{pos_integer(), pid(), term()}]
  def workers(pool) do
    rows = [{{{:worker, {pool, :"$1"}}, :"$2", :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}]
    @registry |> Registry.select(rows) |> Enum.sort()
  rescue
    ArgumentError -> []
  end
end
