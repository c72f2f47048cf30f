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
      Agent.start_link(
        fn -> %{model: options.model, context: options.configured_by, begun: 0, ended: 0} end,
        name: Names.via(:model, options.name)
      )

  @doc """
  Returns the options of a pool with a model that is looked up when it is needed.
  """
  @spec in_options(PoolOptions.t()) :: PoolOptions.t()
  def in_options(%PoolOptions{name: pool} = options) do
    configured = fn key -> Agent.get(Names.via(:model, pool), &Map.fetch!(&1, key)).() end

    %{
      options
      | model: fn -> configured.(:model) end,
        configured_by: fn -> configured.(:context) end
    }
  end

  @doc """
  Begins a change of a pool's model; returns its number, or `nil` if another change has begun and not ended.
  """
  @spec begin(atom()) :: pos_integer() | nil
  def begin(pool) do
    update(pool, fn %{begun: begun, ended: ended} = kept ->
      {if(begun == ended, do: begun + 1), %{kept | begun: begun + 1}}
    end)
  end

  @doc """
  Sets the model of a pool, whose functions run on behalf of the calling process, by the change of this number; returns whether
  no other change has been under way since that began.
  """
  @spec put(atom(), Model.t(), pos_integer() | nil) :: boolean()
  def put(pool, model, number) do
    context = CallerContext.current()

    update(pool, fn %{begun: begun} = kept ->
      {begun == number, %{kept | model: fn -> model end, context: fn -> context end}}
    end) || false
  end

  @doc """
  Ends a change of a pool's model: whatever it has asked of the workers is done.
  """
  @spec ended(atom()) :: :ok
  def ended(pool) do
    update(pool, fn kept -> {:ok, %{kept | ended: kept.ended + 1}} end)
    :ok
  end

  defp update(pool, change) do
    Agent.get_and_update(Names.via(:model, pool), change)
  catch
    # The pool has just been stopped.
    :exit, _reason -> nil
  end
end
