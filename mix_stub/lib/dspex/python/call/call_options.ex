defmodule DSPex.Python.Call.CallOptions do
  @moduledoc false

  # The options of one call. They are read once, in the facade, and go down unchanged:
  #
  #     pool, timeout, serialization_format   the options that Elixir uses
  #     python                                all other options, which are sent to Python

  alias DSPex.Suggestion
  alias DSPex.Python.{Error, ModelFunction, Pool}
  alias DSPex.Python.Functions.{Callback, Model}
  alias DSPex.Python.Wire.Timeout

  defstruct pool: :general, timeout: 30_000, serialization_format: :native, python: %{}

  @type t :: %__MODULE__{
          pool: atom(),
          timeout: timeout(),
          serialization_format: term(),
          python: python()
        }
  @type python :: %{optional(atom()) => term()}

  # The options that every function takes. Python knows the first three only by name, so that it can suggest them.
  @every [:pool, :timeout, :serialization_format, :strict]

  @doc """
  Reads the options of a call; raises `ArgumentError` for a wrong form, pool or timeout.

  `default_timeout` is the timeout of an operation for which the options name none.
  """
  @spec new!(keyword() | map(), timeout()) :: t()
  def new!(options, default_timeout \\ 30_000)

  # The most frequent call.
  def new!([], default_timeout), do: %__MODULE__{timeout: default_timeout}

  def new!(options, default_timeout) do
    {pool, python} = options |> to_map!() |> Map.pop(:pool, :general)
    {timeout, python} = Map.pop(python, :timeout, default_timeout)
    {format, python} = Map.pop(python, :serialization_format, :native)

    %__MODULE__{
      pool: pool!(pool),
      timeout: timeout!(timeout),
      serialization_format: format,
      python: python
    }
  end

  @doc """
  Makes a map of options; raises `ArgumentError` unless they are a keyword list or a map with atom keys.
  """
  @spec to_map!(keyword() | map()) :: %{optional(atom()) => term()}
  def to_map!(options) when is_list(options) or (is_map(options) and not is_struct(options)) do
    # The messages show no value, which may be the key of a model.
    for option <- options do
      case option do
        {name, _value} when is_atom(name) -> option
        {name, _value} -> raise ArgumentError, expected() <> "the key #{inspect(name)}"
        _no_pair -> raise ArgumentError, expected() <> "a list with an element that is no option"
      end
    end
    |> Map.new()
  end

  def to_map!(other), do: raise(ArgumentError, expected() <> inspect(other, limit: 5))

  @doc """
  Sets an option for Python.
  """
  @spec put(t(), atom(), term()) :: t()
  def put(options, name, value), do: %{options | python: Map.put(options.python, name, value)}

  @doc """
  Sets an option for Python, unless the caller has given it.
  """
  @spec put_new(t(), atom(), term()) :: t()
  def put_new(options, name, value),
    do: %{options | python: Map.put_new(options.python, name, value)}

  @doc """
  Takes an option out of the options for Python, and returns its value, or `nil`.
  """
  @spec pop(t(), atom()) :: {term(), t()}
  def pop(options, name) do
    {value, python} = Map.pop(options.python, name)
    {value, %{options | python: python}}
  end

  @doc """
  Checks the names of options that Python does not see, because the operation takes no others than `taken`.

  A misspelt name is an error; another name is one if the call or its pool is strict, and is ignored otherwise.
  """
  @spec check_names(t(), [atom()]) :: :ok | {:error, Error.t()}
  def check_names(%__MODULE__{python: python, pool: pool}, taken) do
    known = @every ++ taken
    unknown = Map.keys(python) -- known

    misspelt = for name <- unknown, meant = Suggestion.misspelt(name, known), do: {name, meant}

    case {misspelt, unknown} do
      {[{name, meant} | _rest], _unknown} ->
        {:error, unknown_option(name, "did you mean #{inspect(meant)}?")}

      {[], [name | _rest]} ->
        if strict?(python, pool) do
          remedy = "the call is strict, and takes only #{Enum.map_join(known, ", ", &inspect/1)}"
          {:error, unknown_option(name, remedy)}
        else
          :ok
        end

      {[], []} ->
        :ok
    end
  end

  @doc """
  Returns the options for Python of an operation that executes something, with its deadline, with the models in Python's
  form, and with the functions that Python must be able to call during the call.
  """
  @spec for_execution(t()) :: {:ok, python(), [Callback.t()]} | {:error, Error.t()}
  def for_execution(%__MODULE__{timeout: timeout, python: python} = options) do
    python = if timeout == :infinity, do: python, else: Map.put(python, :timeout, timeout)
    python = if Pool.strict?(options.pool), do: Map.put_new(python, :strict, true), else: python
    with_models(python, Pool.caller(options.pool))
  end

  @doc """
  Converts the models at `:lm` and in `:adapter`, if there are any, to Python's form; returns their functions too.
  """
  @spec with_models(map(), ModelFunction.pool_call()) ::
          {:ok, map(), [Callback.t()]} | {:error, Error.t()}
  def with_models(options, pool_call) do
    with {:ok, options, callbacks} <- with_model_at(options, :lm, pool_call),
         {:ok, options, more} <- with_extraction_model(options, pool_call),
         do: {:ok, options, callbacks ++ more}
  end

  defp with_extraction_model(%{adapter: adapter} = options, pool_call)
       when (is_map(adapter) and not is_struct(adapter)) or is_list(adapter) do
    if is_map(adapter) or Keyword.keyword?(adapter) do
      with {:ok, adapter, callbacks} <-
             with_model_at(Map.new(adapter), :extraction_model, pool_call),
           do: {:ok, %{options | adapter: adapter}, callbacks}
    else
      {:ok, options, []}
    end
  end

  defp with_extraction_model(options, _pool_call), do: {:ok, options, []}

  defp with_model_at(options, key, pool_call) do
    case options do
      %{^key => model} when model != nil ->
        with {:ok, model, callbacks} <- Model.for_call(model, pool_call),
             do: {:ok, %{options | key => model}, callbacks}

      _none ->
        {:ok, options, []}
    end
  end

  defp strict?(%{strict: strict}, _pool), do: strict == true
  defp strict?(_python, pool), do: Pool.strict?(pool)

  defp unknown_option(name, remedy) do
    facts = %{"path" => "opts.#{name}"}
    Error.new(:input, "unknown option #{inspect(name)} at opts; #{remedy}", facts)
  end

  defp pool!(pool) when is_atom(pool) and pool != nil, do: pool

  defp pool!(other) do
    raise ArgumentError, "expected :pool to be a pool's name, an atom, got #{inspect(other)}"
  end

  defp timeout!(timeout) do
    if Timeout.valid?(timeout), do: timeout, else: raise(ArgumentError, timeout_expected(timeout))
  end

  defp expected, do: "expected options as a keyword list or a map with atom keys, got "

  defp timeout_expected(timeout) do
    "expected :timeout in ms, from 1 to #{Timeout.max_ms()}, or :infinity, got #{inspect(timeout)}"
  end
end
