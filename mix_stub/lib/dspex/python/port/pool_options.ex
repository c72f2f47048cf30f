defmodule DSPex.Python.Port.PoolOptions do
  @moduledoc false

  # Checks the options of one pool. `model` is a function that returns the model: reports must not show its key, and
  # neither `inspect` nor Erlang's formatting looks into a closure.

  alias DSPex.Python.Functions.Model
  alias DSPex.Suggestion
  alias DSPex.Python.Wire.Timeout

  # A longer timer would crash its process.
  @max_timeout Timeout.max_ms()
  @known [:name, :python, :python_path, :model, :modules, :preload, :start_timeout, :heartbeat] ++
           [:max_stuck, :drain_timeout, :strict]
  # Far longer than real C code holds the GIL, and than a machine under load lets a process wait.
  @heartbeat %{interval: 5_000, limit: 30_000}

  @enforce_keys [:name]
  defstruct [
    :name,
    :model,
    python: "python3",
    python_path: [],
    modules: [],
    preload: [],
    start_timeout: 60_000,
    heartbeat: @heartbeat,
    max_stuck: 32,
    drain_timeout: 30_000,
    strict: false
  ]

  @type t :: %__MODULE__{
          name: atom(),
          python: String.t(),
          python_path: [String.t()],
          model: (... -> Model.t()),
          modules: [String.t()],
          preload: [String.t()],
          start_timeout: pos_integer(),
          heartbeat: false | %{interval: pos_integer(), limit: pos_integer()},
          max_stuck: non_neg_integer(),
          drain_timeout: non_neg_integer(),
          strict: boolean()
        }

  @doc """
  Checks the options of a pool; raises an `ArgumentError` that names the option, the pool and the known options.
  """
  @spec new!(keyword() | t()) :: t()
  def new!(%__MODULE__{} = options), do: options

  def new!(options) do
    if not Keyword.keyword?(options) do
      raise ArgumentError, "expected the options of a pool as a keyword list"
    end

    name = options[:name]

    if not is_atom(name) or name in [nil, true, false] do
      raise ArgumentError,
            "expected the option :name of a pool to be an atom, got #{inspect(name)}"
    end

    Enum.each(options, fn {option, value} -> check!(option, value, name) end)
    model = Keyword.get(options, :model)
    heartbeat = heartbeat!(Keyword.get(options, :heartbeat, []), name)
    options = Keyword.merge(options, model: fn -> model end, heartbeat: heartbeat)
    struct!(__MODULE__, options)
  end

  defp heartbeat!(false, _pool), do: false

  defp heartbeat!(given, pool) do
    with true <- Keyword.keyword?(given),
         %{interval: interval, limit: limit} = heartbeat <- Map.merge(@heartbeat, Map.new(given)),
         true <- interval in 1..@max_timeout and limit in interval..@max_timeout//1,
         2 <- map_size(heartbeat) do
      heartbeat
    else
      _wrong ->
        raise ArgumentError,
              "expected false or [interval: ms, limit: ms] with a limit of at least the interval for " <>
                "#{where(:heartbeat, pool)}, got #{inspect(given)}#{heartbeat_hint(given)}"
    end
  end

  defp heartbeat_hint(given) do
    known = Map.keys(@heartbeat)
    unknown = if Keyword.keyword?(given), do: Keyword.keys(given) -- known, else: []
    unknown |> Enum.take(1) |> Enum.map_join(&Suggestion.hint(&1, known))
  end

  defp check!(:heartbeat, _value, _pool), do: :ok
  defp check!(:name, _name, _pool), do: :ok
  defp check!(:python, value, _pool) when is_binary(value) and value != "", do: :ok
  defp check!(:start_timeout, value, _pool) when value in 1..@max_timeout, do: :ok
  defp check!(:drain_timeout, value, _pool) when value in 0..@max_timeout, do: :ok
  defp check!(:max_stuck, value, _pool) when is_integer(value) and value >= 0, do: :ok

  defp check!(:strict, value, _pool) when is_boolean(value), do: :ok

  defp check!(:model, value, pool) do
    with {:error, message} <- Model.validate(value) do
      raise ArgumentError, "#{message} in the option :model of pool #{inspect(pool)}"
    end
  end

  defp check!(option, value, pool) when option in [:python_path, :modules, :preload] do
    if not is_list(value) or not Enum.all?(value, &is_binary/1) do
      raise ArgumentError,
            "expected a list of strings for #{where(option, pool)}, got #{inspect(value)}"
    end
  end

  defp check!(:python, value, pool) do
    raise ArgumentError, "expected a path for #{where(:python, pool)}, got #{inspect(value)}"
  end

  defp check!(:start_timeout, value, pool) do
    raise ArgumentError,
          "expected a positive number of milliseconds for #{where(:start_timeout, pool)}, got #{inspect(value)}"
  end

  defp check!(:drain_timeout, value, pool) do
    raise ArgumentError,
          "expected a number of milliseconds for #{where(:drain_timeout, pool)}, got #{inspect(value)}"
  end

  defp check!(:max_stuck, value, pool) do
    raise ArgumentError,
          "expected 0 or a positive integer for #{where(:max_stuck, pool)}, got #{inspect(value)}"
  end

  defp check!(:strict, value, pool) do
    raise ArgumentError, "expected a boolean for #{where(:strict, pool)}, got #{inspect(value)}"
  end

  # The message does not show the value, which may be a key in the wrong place.
  defp check!(option, _value, pool) do
    raise ArgumentError,
          "unknown option #{inspect(option)} of pool #{inspect(pool)}#{Suggestion.hint(option, @known)}; known are " <>
            Enum.map_join(@known, ", ", &inspect/1)
  end

  defp where(option, pool), do: "the option #{inspect(option)} of pool #{inspect(pool)}"
end
