defmodule DSPex.Python.Pool.Settings do
  @moduledoc false

  # What calls need of a pool's options: its supervisor has them in the value of its name. A call reads them once for what it
  # sends, and once for its events.

  alias DSPex.Python.Error
  alias DSPex.Python.Functions.Budgets
  alias DSPex.Python.Pool.Messages
  alias DSPex.Python.Port.Names

  @typedoc """
  `strict`: whether calls are strict unless they say otherwise. `retry`: whether calls whose worker has died are made again
  unless they say otherwise. `log_metadata`: the keys of the metadata of Logger that Python's log entries have from the caller.
  `redact`: the function that redacts the texts of requests before Python keeps them, `nil` if there is none; Python calls it if it
  keeps texts, and tells no message of an error if there is one. `exports?`: whether Python exports spans. `store?`: whether each
  worker finds the sessions of the others. `places`: how many calls the workers may have at the same time. `budgets`: the table of
  what tenants have spent, and their limits.
  """
  @type t :: %{
          :strict => boolean(),
          :retry => :safe | false,
          :log_metadata => [atom()],
          :redact => {module(), atom()} | nil,
          :exports? => boolean(),
          optional(:size) => pos_integer(),
          optional(:places) => pos_integer(),
          optional(:store?) => boolean(),
          optional(:budgets) => {Budgets.table(), keyword()},
          optional(atom()) => term()
        }

  # How long a caller sleeps before it looks again for the settings of a pool that has its name and is being made.
  @poll_ms 1

  @doc """
  Returns the settings of a pool; `nil` if there is no pool of this name.
  """
  @spec find(atom()) :: t() | nil
  def find(pool) do
    case Names.lookup(:pool, pool) do
      {_supervisor, nil} ->
        Process.sleep(@poll_ms)
        find(pool)

      {_supervisor, settings} ->
        settings

      nil ->
        nil
    end
  end

  @doc """
  Returns the settings of a pool, or `none/0`.
  """
  @spec of(atom()) :: t()
  def of(pool), do: find(pool) || none()

  @doc """
  Returns the settings of a call whose pool is not there; the call is an error in the end.
  """
  @spec none() :: t()
  def none, do: %{strict: false, retry: false, log_metadata: [], redact: nil, exports?: false}

  @doc """
  Returns the budgets that pay for a call with this metadata.
  """
  @spec budgets(t(), map()) :: [Budgets.t()]
  def budgets(%{budgets: budgets}, metadata) when map_size(metadata) > 0,
    do: Budgets.of_tenants(budgets, metadata)

  def budgets(_settings, _metadata), do: []

  @doc """
  Returns what `work` makes of the budgets of a pool.
  """
  @spec with_budgets(atom(), ({Budgets.table(), keyword()} -> result)) ::
          {:ok, result} | {:error, Error.t()}
        when result: term()
  def with_budgets(pool, work) do
    case find(pool) do
      %{budgets: budgets} -> {:ok, work.(budgets)}
      nil -> {:error, Messages.not_running(pool)}
    end
  end
end
