defmodule DSPex.Python.Port.ConfiguredModel do
  @moduledoc false

  # Keeps the model of a pool: the model of its options, until DSPex.Python.configure_lm/3 sets another. The process outlives the
  # owner of the port, so that a Python that is started again gets the model that was configured last.
  #
  # The model is kept in a function: no report prints its key. With it is kept on whose behalf its functions run.

  use Agent

  alias DSPex.Python.Functions.{CallerContext, Model}
  alias DSPex.Python.Port.{Names, PoolOptions}

  @doc false
  def start_link(%PoolOptions{} = options),
    do:
      Agent.start_link(fn -> {options.model, options.configured_by} end,
        name: Names.via(:model, options.name)
      )

  @doc """
  Returns the options of a pool with a model that is looked up when it is needed.
  """
  @spec in_options(PoolOptions.t()) :: PoolOptions.t()
  def in_options(%PoolOptions{name: pool} = options) do
    configured = fn index -> elem(Agent.get(Names.via(:model, pool), & &1), index).() end
    %{options | model: fn -> configured.(0) end, configured_by: fn -> configured.(1) end}
  end

  @doc """
  Sets the model of a pool, whose functions run on behalf of the calling process.
  """
  @spec put(atom(), Model.t()) :: :ok
  def put(pool, model) do
    context = CallerContext.current()
    configured = {fn -> model end, fn -> context end}
    Agent.update(Names.via(:model, pool), fn _previous -> configured end)
  catch
    # The pool has just been stopped.
    :exit, _reason -> :ok
  end
end
