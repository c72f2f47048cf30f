defmodule DSPex.Python.Port.Names do
  @moduledoc false

  # The registered names of a pool's processes: its supervisor (`:pool`), the owner of its port (`:port`), the process
  # that writes its log (`:log`) and the process that keeps its model (`:model`). Each name has a value that others may read.

  @registry DSPex.Python.Registry

  @type kind :: :pool | :port | :log | :model

  @doc """
  Returns the name for `GenServer.start_link/3` and the like.
  """
  @spec via(kind(), atom(), term()) :: GenServer.name()
  def via(kind, pool, value \\ nil), do: {:via, Registry, {@registry, {kind, pool}, value}}

  @doc """
  Returns the process of that name and its value; `nil` if there is none, or if `:dspex` has not been started.
  """
  @spec lookup(kind(), atom()) :: {pid(), term()} | nil
  def lookup(kind, pool) do
    case Registry.lookup(@registry, {kind, pool}) do
      [{pid, value}] -> {pid, value}
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end

  @doc """
  Gives the name to the calling process.
  """
  @spec register(kind(), atom()) :: :ok
  def register(kind, pool) do
    {:ok, _owner} = Registry.register(@registry, {kind, pool}, nil)
    :ok
  end

  @doc """
  Takes the name from the calling process.
  """
  @spec unregister(kind(), atom()) :: :ok
  def unregister(kind, pool), do: Registry.unregister(@registry, {kind, pool})

  @doc """
  Sets the value of a name of the calling process.
  """
  @spec set_value(kind(), atom(), term()) :: :ok
  def set_value(kind, pool, value) do
    {_new, _old} = Registry.update_value(@registry, {kind, pool}, fn _old -> value end)
    :ok
  end

  @doc """
  Lists the names of all pools; raises `ArgumentError` if `:dspex` has not been started.
  """
  @spec pools() :: [atom()]
  def pools, do: Registry.select(@registry, [{{{:pool, :"$1"}, :_, :_}, [], [:"$1"]}])
end
