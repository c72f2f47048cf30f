defmodule DSPex.Python.CallOptions do
  @moduledoc false

  # The options of one call: their form, those that this side uses, and what Python is told of the others.

  alias DSPex.Python.{Error, Model}
  alias DSPex.Python.Callbacks.Callback

  @default_pool :general
  @default_timeout 30_000
  # The longest that Erlang's receive takes, about 49 days.
  @max_timeout 0xFFFFFFFF
  # All others are Python's.
  @local [:pool, :timeout, :serialization_format]

  @type t :: %{optional(atom()) => term()}

  @doc """
  Makes a map of options; raises `ArgumentError` for what is neither a keyword list nor a map with atom keys.
  """
  @spec new!(keyword() | map()) :: t()
  def new!(options) when is_list(options) or (is_map(options) and not is_struct(options)) do
    # Values are not shown here: one may be a model's key.
    for option <- options do
      case option do
        {name, _value} when is_atom(name) -> option
        {name, _value} -> raise ArgumentError, expected() <> "the key #{inspect(name)}"
        _no_pair -> raise ArgumentError, expected() <> "a list with an element that is no option"
      end
    end
    |> Map.new()
  end

  def new!(other), do: raise(ArgumentError, expected() <> inspect(other, limit: 5))

  @doc """
  Gives the pool to ask.
  """
  @spec pool!(t()) :: atom()
  def pool!(options) do
    case Map.get(options, :pool, @default_pool) do
      pool when is_atom(pool) and pool != nil ->
        pool

      other ->
        raise ArgumentError, "expected :pool to be a pool's name, an atom, got #{inspect(other)}"
    end
  end

  @doc """
  Gives the ms that the call may take.
  """
  @spec timeout!(t()) :: timeout()
  def timeout!(options) do
    timeout = Map.get(options, :timeout, @default_timeout)
    if timeout?(timeout), do: timeout, else: raise(ArgumentError, timeout_expected(timeout))
  end

  @doc """
  Tells whether `timeout` is one that a call takes.
  """
  @spec timeout?(term()) :: boolean()
  def timeout?(timeout),
    do: timeout == :infinity or (is_integer(timeout) and timeout in 1..@max_timeout)

  @doc """
  Gives Python's options of an operation that only looks something up or writes it down, and so has no deadline of
  its own.
  """
  @spec without_deadline(t()) :: t()
  def without_deadline(options), do: Map.drop(options, @local)

  @doc """
  Gives Python's options of an operation that executes something, with its deadline and with the model of `:lm` in
  Python's form, and the functions that Python must be able to call meanwhile.
  """
  @spec for_execution(t()) :: {:ok, t(), [Callback.t()]} | {:error, Error.t()}
  def for_execution(options) do
    timeout = timeout!(options)
    pool = pool!(options)
    options = without_deadline(options)
    options = if timeout == :infinity, do: options, else: Map.put(options, :timeout, timeout)
    with_model(options, pool)
  end

  @doc """
  Puts the models of `:lm` and of `:adapter`, if there are any, into Python's form; gives their functions too.
  """
  @spec with_model(t(), atom()) :: {:ok, t(), [Callback.t()]} | {:error, Error.t()}
  def with_model(options, pool) do
    with {:ok, options, callbacks} <- with_model_at(options, :lm, pool),
         {:ok, options, more} <- with_extraction_model(options, pool),
         do: {:ok, options, callbacks ++ more}
  end

  defp with_extraction_model(%{adapter: adapter} = options, pool)
       when (is_map(adapter) and not is_struct(adapter)) or is_list(adapter) do
    if is_map(adapter) or Keyword.keyword?(adapter) do
      with {:ok, adapter, callbacks} <-
             with_model_at(Map.new(adapter), :extraction_model, pool),
           do: {:ok, %{options | adapter: adapter}, callbacks}
    else
      {:ok, options, []}
    end
  end

  defp with_extraction_model(options, _pool), do: {:ok, options, []}

  defp with_model_at(options, key, pool) do
    case options do
      %{^key => model} when model != nil ->
        with {:ok, model, callbacks} <- Model.for_call(model, pool),
             do: {:ok, %{options | key => model}, callbacks}

      _none ->
        {:ok, options, []}
    end
  end

  defp expected, do: "expected options as a keyword list or a map with atom keys, got "

  defp timeout_expected(timeout) do
    "expected :timeout in ms, from 1 to #{@max_timeout}, or :infinity, got #{inspect(timeout)}"
  end
end
