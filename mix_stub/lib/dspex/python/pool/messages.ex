defmodule DSPex.Python.Pool.Messages do
  @moduledoc false

  # The errors about a pool that name its configuration.

  alias DSPex.Python.Error
  alias DSPex.Python.Functions.ModelOptions
  alias DSPex.Python.Port.Names
  alias DSPex.Suggestion

  @doc """
  Says that a pool has no model, and where one is configured.
  """
  @spec model_missing(atom()) :: String.t()
  def model_missing(pool) do
    "pool #{inspect(pool)} has no language model; write config :dspex, DSPex.Python, " <>
      "pools: [#{key(pool)}: [model: #{ModelOptions.example()}]], call DSPex.Python.configure_lm with pool: #{inspect(pool)}, " <>
      "or give the call a model with lm:"
  end

  @doc """
  Says which nodes of a cluster have no model, and where one is configured.
  """
  @spec model_missing(atom(), [node()]) :: String.t()
  def model_missing(pool, nodes) do
    "pool #{inspect(pool)} has no language model on #{Enum.map_join(nodes, ", ", &to_string/1)}; write " <>
      "config :dspex, DSPex.Python, pools: [#{key(pool)}: [model: #{ModelOptions.example()}]] on each node, or call " <>
      "DSPex.Python.configure_lm with pool: {:cluster, #{inspect(pool)}} again: it configures the nodes that are up then"
  end

  @doc """
  Returns the error of a call of a pool that does not exist.
  """
  @spec not_found(term()) :: Error.t()
  def not_found(pool) when is_atom(pool) and pool not in [nil, true, false] do
    Error.new(
      :pool_not_found,
      "there is no pool #{inspect(pool)}#{Suggestion.hint(pool, names())}; write config :dspex, DSPex.Python, " <>
        "pools: [#{key(pool)}: [python: \"/path/to/python\", model: :embedded]]#{running(pool)}"
    )
  end

  def not_found(other), do: not_running(other)

  @doc """
  Returns the error of a pool that does not exist and of which something was asked that only a running pool has: to stop it, its calls,
  its counts.
  """
  @spec not_running(term()) :: Error.t()
  def not_running(pool) when is_atom(pool) and pool not in [nil, true, false] do
    Error.new(
      :pool_not_found,
      "there is no pool #{inspect(pool)} on this node#{Suggestion.hint(pool, names())}; #{there()}"
    )
  end

  def not_running(other),
    do: Error.new(:pool_not_found, no_name("the name of a pool of this node, an atom,", other))

  @doc """
  Says of a value that is not `expected`, the name of a pool, which pools there are.
  """
  @spec no_name(String.t(), term()) :: String.t()
  def no_name(expected, other) do
    hint = if is_binary(other), do: Suggestion.hint(other, names()), else: ""
    "expected #{expected} got #{inspect(other, limit: 5)}#{hint}; #{there()}"
  end

  @doc """
  Raises `ArgumentError` unless `pools` is a list.
  """
  @spec check_list!(term()) :: :ok
  def check_list!(pools) do
    if is_list(pools) and not List.improper?(pools),
      do: :ok,
      else:
        raise(
          ArgumentError,
          "expected a list of names of pools, or :all, got #{inspect(pools, limit: 5)}#{Suggestion.list_hint(pools)}"
        )
  end

  @doc """
  Returns the error of a call that comes while its pool is being stopped.
  """
  @spec stopping(atom()) :: Error.t()
  def stopping(pool) do
    Error.new(
      :pool_not_found,
      "pool #{inspect(pool)} is being stopped, and takes no further calls"
    )
  end

  # The pool may have been stopped, or never have been configured.
  defp running(pool) do
    if Names.available?() do
      started = "start it with DSPex.Python.start_pool(#{inspect(pool)}, python: …, model: …)"

      case Enum.map_join(names(), ", ", &inspect/1) do
        "" -> " or #{started}"
        names -> ", #{started}, or use one of: #{names}"
      end
    else
      " and start the application :dspex"
    end
  end

  defp there do
    case {Names.available?(), names()} do
      {false, _none} -> "start the application :dspex"
      {true, []} -> "there are no pools"
      {true, names} -> "the pools are: #{Enum.map_join(names, ", ", &inspect/1)}"
    end
  end

  defp names, do: if(Names.available?(), do: Enum.sort(Names.pools()), else: [])

  # Returns the name as a keyword list writes it, without its colon.
  defp key(pool), do: pool |> inspect() |> String.trim_leading(":")
end
