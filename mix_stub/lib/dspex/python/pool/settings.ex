defmodule DSPex.Python.Pool.Settings do
  @moduledoc false

  # What calls look up of a pool's options: its supervisor has them as the value of its name.

  alias DSPex.Python.Error
  alias DSPex.Python.Functions.Budgets
  alias DSPex.Python.Pool.Messages
  alias DSPex.Python.Port.Names

  @doc """
  Tells whether calls of the pool are strict unless they say otherwise.
  """
  @spec strict?(atom()) :: boolean()
  def strict?(pool), do: match?({_supervisor, %{strict: true}}, Names.lookup(:pool, pool))

  @doc """
  Tells whether calls of the pool whose worker has died are made again unless they say otherwise: `:safe` or `false`.
  """
  @spec retry(atom()) :: :safe | false
  def retry(pool) do
    case Names.lookup(:pool, pool) do
      {_supervisor, %{retry: retry}} -> retry
      nil -> false
    end
  end

  @doc """
  Returns the keys of the metadata of Logger that Python's log entries have from the caller.
  """
  @spec log_metadata(atom()) :: [atom()]
  def log_metadata(pool) do
    case Names.lookup(:pool, pool) do
      {_supervisor, %{log_metadata: keys}} -> keys
      nil -> []
    end
  end

  @doc """
  Returns the function that redacts the texts of requests before the pool's Pythons keep them; `nil` if there is none. Python
  calls it if it keeps texts, and tells no message of an error if there is one.
  """
  @spec redact(atom()) :: {module(), atom()} | nil
  def redact(pool) do
    case Names.lookup(:pool, pool) do
      {_supervisor, %{redact: {_module, _function} = redact}} -> redact
      _none -> nil
    end
  end

  @doc """
  Tells whether the pool's Pythons export spans, and whether the application redacts texts.
  """
  @spec telling(atom()) :: %{exports?: boolean(), redacts?: boolean()}
  def telling(pool) do
    case Names.lookup(:pool, pool) do
      {_supervisor, %{exports?: exports?, redact: redact}} ->
        %{exports?: exports?, redacts?: redact != nil}

      _none ->
        %{exports?: false, redacts?: false}
    end
  end

  @doc """
  Returns the budgets that pay for a call with this metadata.
  """
  @spec budgets(atom(), map()) :: [Budgets.t()]
  def budgets(_pool, metadata) when map_size(metadata) == 0, do: []

  def budgets(pool, metadata) do
    case Names.lookup(:pool, pool) do
      {_supervisor, %{budgets: budgets}} -> Budgets.of_tenants(budgets, metadata)
      nil -> []
    end
  end

  @doc """
  Returns what `work` makes of the budgets of a pool.
  """
  @spec with_budgets(atom(), ({Budgets.table(), keyword()} -> result)) ::
          {:ok, result} | {:error, Error.t()}
        when result: term()
  def with_budgets(pool, work) do
    case Names.lookup(:pool, pool) do
      {_supervisor, %{budgets: budgets}} -> {:ok, work.(budgets)}
      nil -> {:error, Messages.not_running(pool)}
    end
  end
end
