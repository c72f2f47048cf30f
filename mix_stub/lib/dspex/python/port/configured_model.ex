defmodule DSPex.Python.Port.ConfiguredModel do
  @moduledoc false

  # Keeps the model of a pool: the model of its options, until DSPex.Python.configure_lm/3 sets another. The process outlives the
  # owner of the port, so that a Python that is started again gets the model that was configured last.
  #
  # The model is kept in a function: no report prints its key.

  use Agent

  alias DSPex.Python.Functions.Model
  alias DSPex.Python.Port.{Names, PoolOptions}

  @doc false
  def start_link(%PoolOptions{} = options),
    do: Agent.start_link(fn -> options.model end, name: Names.via(:model, options.name))

  @doc """
  Returns the options of a pool with a model that is looked up when it is needed.
  """
  @spec in_options(PoolOptions.t()) :: PoolOptions.t()
  def in_options(%PoolOptions{name: pool} = options),
    do: %{options | model: fn -> Agent.get(Names.via(:model, pool), & &1).() end}

  @doc """
  Sets the model of a pool.
  """
  @spec put(atom(), Model.t()) :: :ok
  def put(pool, model) do
    Agent.update(Names.via(:model, pool), fn _previous -> fn -> model end end)
  catch
    # The pool has just been stopped.
    :exit, _reason -> :ok
  end
end
