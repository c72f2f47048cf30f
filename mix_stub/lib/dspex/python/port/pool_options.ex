defmodule DSPex.Python.Port.PoolOptions do
  @moduledoc false

  # Checks the options of one pool. `model` is a function that returns the model: reports must not show its key, and
  # neither `inspect` nor Erlang's formatting looks into a closure. `configured_by` returns on whose behalf the functions of
  # this model run: the process that wrote the options. `env` is a function as well, because variables may be keys.

  alias DSPex.Python.Functions.{Budgets, CallerContext, Model, ModelOptions, NamedFunction}
  alias DSPex.Python.Port.{Environment, Heartbeat, KeyedOptions, ProgramFiles, StoreOption}
  alias DSPex.Suggestion
  alias DSPex.Python.Wire.{Keywords, Limits, Timeout}

  # A longer timer would crash its process.
  @max_timeout Timeout.max_ms()
  @known [:name, :python, :python_path, :env, :cd, :model, :modules, :preload, :start_timeout] ++
           [:heartbeat, :max_threads, :max_stuck, :lost_after, :max_request_bytes] ++
           [
             :max_answer_bytes,
             :drain_timeout,
             :stop_timeout,
             :strict,
             :size,
             :standby,
             :template,
             :max_in_flight
           ] ++
           [
             :max_queue,
             :max_memory,
             :max_calls,
             :max_age,
             :retry,
             :store,
             :programs,
             :session_ttl
           ] ++
           [:budgets, :log_metadata, :history, :redact, :otlp]
  # What calls, and other libraries, have as names of these.
  @other_names %{
    lm: :model,
    llm: :model,
    interpreter: :python,
    venv: :python,
    workers: :size,
    pool_size: :size,
    timeout: :start_timeout,
    pythonpath: :python_path,
    environment: :env,
    dir: :cd,
    database: :store,
    max_concurrency: :max_in_flight
  }
  # More would only be a slip of the keyboard: each takes tens of MB.
  @max_size 256
  # 1,000 years: the store subtracts it from a time of 64 bits.
  @max_ttl 31_557_600_000_000
  # A ten-thousandth of it passes between two looks for what is idle: with less, Python would do nothing else.
  @least_ttl 1_000
  # A thread costs memory, and with more of them each has less of the one GIL.
  @max_threads 1_024
  # Python and DSPy take about 60 MB: with a lower limit each Python would be replaced at once.
  @least_memory_mb 100
  @limits Map.keys(Limits.defaults())
  @least_bytes Limits.least_bytes()

  @enforce_keys [:name]
  defstruct [
    :name,
    :model,
    :configured_by,
    :env,
    :heartbeat,
    :store,
    :cd,
    python: "python3",
    python_path: [],
    programs: [],
    modules: [],
    preload: [],
    start_timeout: 60_000,
    max_threads: 64,
    max_stuck: 32,
    lost_after: 30_000,
    max_request_bytes: Limits.defaults().max_request_bytes,
    max_answer_bytes: Limits.defaults().max_answer_bytes,
    drain_timeout: 30_000,
    stop_timeout: 5_000,
    strict: false,
    size: 1,
    standby: 0,
    template: false,
    max_in_flight: 1_024,
    max_queue: 4_096,
    max_memory: nil,
    max_calls: nil,
    max_age: nil,
    session_ttl: nil,
    retry: false,
    budgets: [],
    log_metadata: [:request_id],
    history: :metadata,
    redact: nil,
    otlp: nil
  ]

  @type t :: %__MODULE__{
          name: atom(),
          python: String.t(),
          python_path: [String.t()],
          model: (... -> Model.t()),
          configured_by: (... -> CallerContext.t()),
          env: (... -> Environment.variables()),
          store: (... -> term()),
          programs: [{atom(), ProgramFiles.source()}],
          cd: String.t() | nil,
          modules: [String.t()],
          preload: [String.t()],
          start_timeout: pos_integer(),
          heartbeat: false | Heartbeat.options(),
          max_threads: pos_integer(),
          max_stuck: non_neg_integer(),
          lost_after: pos_integer(),
          max_request_bytes: pos_integer(),
          max_answer_bytes: pos_integer(),
          drain_timeout: non_neg_integer(),
          stop_timeout: non_neg_integer(),
          strict: boolean(),
          size: pos_integer(),
          standby: non_neg_integer(),
          template: boolean(),
          max_in_flight: pos_integer(),
          max_queue: non_neg_integer(),
          max_memory: pos_integer() | nil,
          max_calls: pos_integer() | nil,
          max_age: pos_integer() | nil,
          session_ttl: pos_integer() | nil,
          retry: :safe | false,
          budgets: keyword(),
          log_metadata: [atom()],
          history: false | :metadata | :full,
          redact: {module(), atom()} | nil,
          otlp: KeyedOptions.otlp() | nil
        }

  @doc """
  Checks the options of a pool; raises an `ArgumentError` that names the option, the pool and the known options.
  """
  @spec new!(keyword() | t()) :: t()
  def new!(%__MODULE__{} = options), do: options

  def new!(options) do
    if not Keyword.keyword?(options) do
      raise ArgumentError,
            "expected the options of a pool as a keyword list#{given(options)}"
    end

    name = options[:name]

    if not is_atom(name) or name in [nil, true, false] do
      raise ArgumentError,
            "expected the option :name of a pool to be an atom, got #{inspect(name)}"
    end

    with message when message != nil <-
           Keywords.repeated(options, "the options of pool #{inspect(name)}"),
         do: raise(ArgumentError, message)

    Enum.each(options, fn {option, value} -> check!(option, value, name) end)
    model = Keyword.get(options, :model)

    read = fn option, default, reader ->
      options |> Keyword.get(option, default) |> reader.() |> read!(option, name)
    end

    env = read.(:env, [], &Environment.read/1)
    store = Keyword.get(options, :store, :run)

    if store == false and options[:session_ttl] do
      raise ArgumentError,
            "#{where(:session_ttl, name)} is about the store of the pool, which has none; give it the option :store too"
    end

    context = CallerContext.current()
    size = size(Keyword.get(options, :size, 1))
    standby = Keyword.get(options, :standby, if(size > 1, do: 1, else: 0))

    struct!(
      __MODULE__,
      Keyword.merge(options,
        model: fn -> model end,
        configured_by: fn -> context end,
        env: fn -> env end,
        store: fn -> store end,
        heartbeat: read.(:heartbeat, [], &KeyedOptions.heartbeat/1),
        otlp: read.(:otlp, false, &KeyedOptions.otlp/1),
        size: size,
        standby: standby,
        # A process that imports for the others is worth it if there are others.
        template: Keyword.get(options, :template, size + standby > 1),
        max_memory: bytes(options[:max_memory])
      )
    )
  end

  # No more of them, because they may have a key.
  defp given(options) when is_map(options), do: ", got a map; Map.to_list/1 makes a list of it"

  defp given(options) when is_list(options),
    do: ", got a list with what is no pair of an atom and a value"

  defp given(other), do: ", got #{ModelOptions.outline(other)}"

  defp size(:schedulers), do: min(System.schedulers_online(), @max_size)
  defp size(number), do: number

  defp bytes({:mb, number}), do: number * 1024 * 1024
  defp bytes(number), do: number

  # An option that is read by a function, and not only checked.
  defp read!({:ok, value}, _option, _pool), do: value

  defp read!({:error, message}, option, pool),
    do: raise(ArgumentError, "#{message} for #{where(option, pool)}")

  defp check!(:heartbeat, _value, _pool), do: :ok
  defp check!(:otlp, _value, _pool), do: :ok
  defp check!(:env, _value, _pool), do: :ok
  defp check!(:cd, nil, _pool), do: :ok
  defp check!(:name, _name, _pool), do: :ok
  defp check!(:start_timeout, value, _pool) when value in 1..@max_timeout, do: :ok

  defp check!(option, value, _pool)
       when option in [:drain_timeout, :stop_timeout] and value in 0..@max_timeout,
       do: :ok

  defp check!(:max_threads, value, _pool) when value in 1..@max_threads, do: :ok
  defp check!(:max_stuck, value, _pool) when is_integer(value) and value >= 0, do: :ok
  defp check!(:lost_after, value, _pool) when value in 1..@max_timeout, do: :ok

  defp check!(option, value, _pool)
       when option in @limits and is_integer(value) and value >= @least_bytes,
       do: :ok

  defp check!(option, value, _pool) when option in [:strict, :template] and is_boolean(value),
    do: :ok

  defp check!(:retry, value, _pool) when value in [:safe, false], do: :ok
  defp check!(:size, value, _pool) when value == :schedulers or value in 1..@max_size, do: :ok
  defp check!(:standby, value, _pool) when value in 0..@max_size, do: :ok
  defp check!(:max_in_flight, value, _pool) when is_integer(value) and value > 0, do: :ok
  defp check!(:max_queue, value, _pool) when is_integer(value) and value >= 0, do: :ok

  defp check!(option, nil, _pool)
       when option in [:max_memory, :max_calls, :max_age, :session_ttl],
       do: :ok

  defp check!(:session_ttl, value, _pool) when value in @least_ttl..@max_ttl, do: :ok
  defp check!(:max_calls, value, _pool) when is_integer(value) and value > 0, do: :ok
  defp check!(:max_age, value, _pool) when value in 1..@max_timeout, do: :ok

  defp check!(:max_memory, {:mb, value}, _pool)
       when is_integer(value) and value >= @least_memory_mb,
       do: :ok

  defp check!(:max_memory, value, _pool)
       when is_integer(value) and value >= @least_memory_mb * 1024 * 1024,
       do: :ok

  defp check!(:programs, value, pool) do
    with {:error, message} <- ProgramFiles.check(value) do
      raise ArgumentError, "#{message} for #{where(:programs, pool)}"
    end
  end

  defp check!(:store, value, pool) do
    with {:error, message} <- StoreOption.validate(value) do
      raise ArgumentError, "#{message} for #{where(:store, pool)}"
    end
  end

  defp check!(:redact, nil, _pool), do: :ok

  defp check!(:redact, {module, function}, pool) when is_atom(module) and is_atom(function) do
    with {:error, message} <- NamedFunction.check(module, function, 1) do
      raise ArgumentError, "#{message} for #{where(:redact, pool)}"
    end
  end

  defp check!(:redact, value, pool) do
    raise ArgumentError,
          "expected {module, function} for #{where(:redact, pool)}, got #{inspect(value)}"
  end

  defp check!(:history, value, pool) do
    if value not in [false, :metadata, :full] do
      raise ArgumentError,
            "expected false, :metadata or :full for #{where(:history, pool)}, got #{inspect(value)}"
    end
  end

  defp check!(:log_metadata, value, pool) do
    if not all?(value, &is_atom/1) do
      raise ArgumentError,
            "expected a list of keys such as [:request_id] for #{where(:log_metadata, pool)}, got #{inspect(value)}" <>
              Suggestion.list_hint(value)
    end
  end

  defp check!(:budgets, value, pool) do
    with {:error, message} <- Budgets.check(value) do
      raise ArgumentError, "#{message} for #{where(:budgets, pool)}"
    end
  end

  defp check!(:model, value, pool) do
    with {:error, message} <- Model.validate(value) do
      raise ArgumentError, "#{message} in the option :model of pool #{inspect(pool)}"
    end
  end

  defp check!(option, value, pool) when option in [:python_path, :modules, :preload] do
    if not all?(value, &is_binary/1) do
      raise ArgumentError,
            "expected a list of strings for #{where(option, pool)}, got #{inspect(value)}#{Suggestion.list_hint(value)}"
    end

    if option != :python_path and Enum.any?(value, &(String.trim(&1) == "")) do
      raise ArgumentError,
            "expected names of modules, none of them empty, for #{where(option, pool)}, got #{inspect(value)}"
    end

    if not Enum.all?(value, &Environment.text?/1), do: raise_unusable(option, value, pool)

    # Python separates the folders by colons, and takes an empty one for the current folder.
    if option == :python_path and Enum.any?(value, &(&1 == "" or String.contains?(&1, ":"))) do
      raise ArgumentError,
            "expected folders whose names are not empty and have no colon for #{where(option, pool)}, got " <>
              "#{inspect(value)}; the current folder is \".\""
    end
  end

  defp check!(:cd, value, pool) do
    if not Environment.text?(value) or not File.dir?(value) do
      raise ArgumentError,
            "expected a folder that exists for #{where(:cd, pool)}, got #{inspect(value)}"
    end
  end

  defp check!(:python, value, pool) do
    if not is_binary(value) or value == "" do
      raise ArgumentError, "expected a path for #{where(:python, pool)}, got #{inspect(value)}"
    end

    if not Environment.text?(value), do: raise_unusable(:python, value, pool)
  end

  defp check!(:size, value, pool) do
    raise ArgumentError,
          "expected 1 to #{@max_size} or :schedulers for #{where(:size, pool)}, got #{inspect(value)}"
  end

  defp check!(:standby, value, pool) do
    raise ArgumentError,
          "expected 0 to #{@max_size} for #{where(:standby, pool)}, got #{inspect(value)}"
  end

  defp check!(:max_memory, value, pool) do
    raise ArgumentError,
          "expected {:mb, number} of at least #{@least_memory_mb}, or so many bytes, for " <>
            "#{where(:max_memory, pool)}, got #{inspect(value)}"
  end

  defp check!(:retry, value, pool) do
    raise ArgumentError,
          "expected :safe or false for #{where(:retry, pool)}, got #{inspect(value)}"
  end

  defp check!(option, value, pool) when option in [:max_in_flight, :max_calls] do
    raise ArgumentError,
          "expected a positive integer for #{where(option, pool)}, got #{inspect(value)}"
  end

  defp check!(option, value, pool) when option in [:max_queue, :max_stuck] do
    raise ArgumentError,
          "expected 0 or a positive integer for #{where(option, pool)}, got #{inspect(value)}"
  end

  defp check!(option, value, pool)
       when option in [:start_timeout, :lost_after, :max_age] do
    raise ArgumentError,
          "expected 1 to #{@max_timeout} ms for #{where(option, pool)}, got #{inspect(value)}"
  end

  defp check!(:session_ttl, value, pool) do
    raise ArgumentError,
          "expected #{@least_ttl} to #{@max_ttl} ms for #{where(:session_ttl, pool)}, got #{inspect(value)}"
  end

  defp check!(:max_threads, value, pool) do
    raise ArgumentError,
          "expected 1 to #{@max_threads} for #{where(:max_threads, pool)}, got #{inspect(value)}"
  end

  defp check!(option, value, pool) when option in [:drain_timeout, :stop_timeout] do
    raise ArgumentError,
          "expected 0 to #{@max_timeout} ms for #{where(option, pool)}, got #{inspect(value)}"
  end

  defp check!(option, value, pool) when option in @limits do
    raise ArgumentError,
          "expected at least #{@least_bytes} bytes for #{where(option, pool)}, got #{inspect(value)}"
  end

  defp check!(option, value, pool) when option in [:strict, :template] do
    raise ArgumentError, "expected a boolean for #{where(option, pool)}, got #{inspect(value)}"
  end

  # The message does not show the value, which may be a key in the wrong place.
  defp check!(option, _value, pool) do
    hint =
      case @other_names do
        %{^option => meant} -> " (did you mean #{inspect(meant)}?)"
        _unknown -> Suggestion.hint(option, @known)
      end

    raise ArgumentError,
          "unknown option #{inspect(option)} of pool #{inspect(pool)}#{hint}; known are " <>
            Enum.map_join(@known, ", ", &inspect/1)
  end

  # `Enum.all?` raises for an improper list.
  defp all?(value, check),
    do: is_list(value) and not List.improper?(value) and Enum.all?(value, check)

  # No argument of a program can hold a zero byte, and the BEAM takes names in UTF-8 only.
  defp raise_unusable(option, value, pool) do
    raise ArgumentError,
          "expected UTF-8 text without zero bytes for #{where(option, pool)}, got #{inspect(value)}"
  end

  defp where(option, pool), do: "the option #{inspect(option)} of pool #{inspect(pool)}"
end
