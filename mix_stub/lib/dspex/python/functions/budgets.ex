defmodule DSPex.Python.Functions.Budgets do
  @moduledoc false

  # Budgets of several Pythons: what each tenant of a pool may spend on models, and a batch that runs in several workers.
  # Python asks before each request to a model what has been spent, and says after each answer what it has cost, by a
  # function that is registered for the call.

  alias DSPex.Python.Functions.Callback
  alias DSPex.Python.Wire.Keywords
  alias DSPex.Suggestion

  @limits [:max_cost, :max_tokens_total]
  @ranges [
    max_cost: "a number of dollars from 0 to 1,000,000",
    max_tokens_total: "a whole number of tokens from 0 to 2^53"
  ]
  @example "[max_cost: 5.0, max_tokens_total: 1_000_000]"
  # Counters hold integers: costs are counted in billionths of a dollar.
  @per_dollar 1_000_000_000
  # The function counts and returns.
  @timeout 30_000

  @enforce_keys [:of, :limits, :counters]
  defstruct @enforce_keys

  @typedoc "A budget: whose it is, its limits, and what was spent (cost, tokens, answers without a price, without tokens)."
  @type t :: %__MODULE__{of: String.t(), limits: limits(), counters: :counters.counters_ref()}
  @type limits :: %{optional(:max_cost) => number(), optional(:max_tokens_total) => integer()}
  @typedoc "What the tenants of a pool have spent. The table belongs to the supervisor of the pool."
  @type table :: :ets.tid()

  @doc """
  Makes an empty table, which ends with the calling process.
  """
  @spec table() :: table()
  def table, do: :ets.new(__MODULE__, [:public, read_concurrency: true])

  @doc """
  Checks the option `:budgets` of a pool: for each key of `metadata:`, the limits of each of its values. The error is a sentence.
  """
  @spec check(term()) :: :ok | {:error, String.t()}
  def check(budgets) do
    if is_list(budgets) and not List.improper?(budgets) and
         Enum.all?(budgets, &match?({_key, _limits}, &1)) do
      check_each(budgets, "budgets", &check_limits/2)
    else
      expected(
        "a keyword list of keys of the metadata of calls",
        "[tenant: #{@example}]",
        budgets
      )
    end
  end

  # A limit of the whole pool, which there is not.
  defp check_limits({limit, value}, path) when limit in @limits,
    do: expected_key(path, "[tenant: [#{limit}: #{inspect(value)}]]", limit)

  defp check_limits({key, _limits}, path)
       when not is_atom(key) or key in [nil, true, false, :""],
       do: expected_key(path, "[tenant: #{@example}]", key)

  defp check_limits({key, limits}, path) do
    if limits != [] and Keyword.keyword?(limits),
      do: check_each(limits, "#{path}.#{key}", &check_limit/2),
      else: expected("limits at #{path}.#{key}", @example, limits)
  end

  defp expected_key(path, example, got),
    do: expected("a key of the metadata of calls at #{path}", example, got)

  defp check_limit({name, value} = limit, path) do
    cond do
      name not in @limits ->
        {:error,
         "unknown limit #{inspect(name)} at #{path}#{Suggestion.hint(name, @limits)}; known are " <>
           Enum.map_join(@limits, ", ", &inspect/1)}

      not limit?(limit) ->
        {:error, "expected #{@ranges[name]} at #{path}.#{name}, got #{inspect(value)}"}

      true ->
        :ok
    end
  end

  defp check_each(pairs, path, check) do
    with nil <- Keywords.repeated(pairs, path),
         nil <- Enum.find_value(pairs, &wrong(check.(&1, path))),
         do: :ok,
         else: (message -> {:error, message})
  end

  defp wrong(:ok), do: nil
  defp wrong({:error, message}), do: message

  defp expected(what, example, got),
    do: {:error, "expected #{what}, such as #{example}, got #{inspect(got)}"}

  defp limit?({:max_cost, cost}), do: is_number(cost) and cost >= 0 and cost <= 1_000_000
  defp limit?({:max_tokens_total, tokens}), do: is_integer(tokens) and tokens in 0..(2 ** 53)

  @doc """
  Returns the budgets of the tenants that the metadata of a call names.
  """
  @spec of_tenants({table(), keyword()}, map()) :: [t()]
  def of_tenants({table, budgets}, metadata) do
    for {key, limits} <- budgets,
        value <- [named(metadata, key)],
        value != nil,
        do: tenant(table, key, one_form(value), Map.new(limits))
  end

  # A tenant that is named by an atom here and by a text there has one budget.
  defp one_form(value) when is_atom(value) and not is_boolean(value), do: Atom.to_string(value)
  defp one_form(value), do: value

  # `false` is a value too.
  defp named(metadata, key) do
    case metadata do
      %{^key => value} when value != nil -> value
      _none -> metadata[Atom.to_string(key)]
    end
  end

  defp tenant(table, key, value, limits) do
    counters = counters(table, {key, value})
    %__MODULE__{of: name(key, value), limits: limits, counters: counters}
  end

  defp counters(table, tenant) do
    :ets.insert_new(table, {tenant, :counters.new(4, [])})

    case :ets.lookup(table, tenant) do
      [{_tenant, counters}] -> counters
      # It was reset just now.
      [] -> counters(table, tenant)
    end
  end

  defp name(key, value) when is_binary(value), do: "#{key} #{inspect(value)}"
  defp name(key, value), do: "#{key} #{inspect(value, limit: 5, printable_limit: 100)}"

  @doc """
  Takes the limits out of the options of a call for Python, if they are limits, and makes a budget of them.
  """
  @spec take(map()) :: {t() | nil, map()}
  def take(python) do
    limits =
      for {name, value} <- Map.take(python, @limits), value != nil, into: %{}, do: {name, value}

    # Python says what is wrong with others.
    if limits != %{} and Enum.all?(limits, &limit?/1) do
      budget = %__MODULE__{of: "this call", limits: limits, counters: :counters.new(4, [])}
      {budget, Map.drop(python, @limits)}
    else
      {nil, python}
    end
  end

  @doc """
  Returns a budget in Python's form, and the function that Python calls.
  """
  @spec for_call(t()) :: {map(), Callback.t()}
  def for_call(%__MODULE__{of: of, limits: limits, counters: counters}) do
    callback = Callback.new("the budget of #{of}", &added(counters, &1), @timeout)
    {Map.merge(limits, %{of: of, callback: callback.id}), callback}
  end

  defp added(counters, spent) do
    :counters.add(counters, 1, round(spent["cost"] * @per_dollar))
    :counters.add(counters, 2, spent["tokens"])
    :counters.add(counters, 3, spent["unpriced"])
    :counters.add(counters, 4, spent["uncounted"])

    %{
      cost: cost(counters),
      tokens: :counters.get(counters, 2),
      unpriced: :counters.get(counters, 3),
      uncounted: :counters.get(counters, 4)
    }
  end

  defp cost(counters), do: :counters.get(counters, 1) / @per_dollar

  @doc """
  Returns what each tenant has spent, as `DSPex.Python.list_budgets/1` shows it.
  """
  @spec report({table(), keyword()}) :: [map()]
  def report({table, budgets}) do
    for {{key, value}, counters} <- :ets.tab2list(table) do
      %{
        "key" => key,
        "value" => value,
        "max_cost" => budgets[key][:max_cost],
        "max_tokens_total" => budgets[key][:max_tokens_total],
        "cost" => cost(counters),
        "total_tokens" => :counters.get(counters, 2)
      }
    end
  end

  @doc """
  Forgets what a tenant has spent; tells whether it had a budget, or which keys have budgets if `key` has none. Calls in
  flight still count against the old one.
  """
  @spec reset({table(), keyword()}, atom() | String.t(), term()) ::
          boolean() | {:unknown, [atom()]}
  def reset({table, budgets}, key, value) do
    case Enum.find(Keyword.keys(budgets), &(key in [&1, Atom.to_string(&1)])) do
      nil -> {:unknown, Keyword.keys(budgets)}
      key -> :ets.take(table, {key, one_form(value)}) != []
    end
  end
end
