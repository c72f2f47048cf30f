defmodule DSPex.Python.Call.CallOptions do
  @moduledoc false

  # The options of one call. They are read once, in the facade, and go down unchanged:
  #
  #     pool, timeout, serialization_format   the options that Elixir uses
  #     retry                                 the option `:retry`; `nil`: as the pool says
  #     python                                all other options, which are sent to Python
  #     once                                  :ok, or the error of the call for an option that is given twice, or contradicts its program
  #     route                                 the worker that gets the call, if it is known
  #     counted?                              whether the call has telemetry events of its own
  #     on_worker                             a function that is told the number of the worker
  #     metadata                              the option `:metadata`, a map of the caller's own for events and traces
  #     within                                the call of which this one is a part, if it is observed
  #     pool_given?                           whether the caller named the pool, which a program names too
  #     budgets                               budgets that the call shares with other calls
  #     part?                                 whether the call is part of a batch that has begun
  #     batch                                 the open batch of which the call is a part, by which it sees that it was cancelled
  #     functions                             those of the call that Python may call, registered on this node
  #     resolves?                             whether Python may call exported functions, which a stored program names

  alias DSPex.Suggestion
  alias DSPex.Python.{Cluster, Error, ModelFunction}
  alias DSPex.Python.Cluster.Placement
  alias DSPex.Python.Functions.{Budgets, Callback, CallerContext, Exported, Model}
  alias DSPex.Python.Pool.{Messages, OpenBatches, Settings}
  alias DSPex.Python.Wire.{Keywords, Timeout, UniqueId}

  defstruct pool: :general,
            pool_given?: false,
            timeout: 30_000,
            serialization_format: :native,
            python: %{},
            once: :ok,
            route: nil,
            retry: nil,
            on_worker: nil,
            functions: [],
            counted?: true,
            metadata: %{},
            within: nil,
            budgets: [],
            part?: false,
            batch: nil,
            resolves?: false

  @type t :: %__MODULE__{
          pool: Cluster.pool(),
          pool_given?: boolean(),
          timeout: timeout(),
          serialization_format: :native | :json,
          python: python(),
          once: :ok | {:error, Error.t()},
          route: Placement.t() | nil,
          retry: :safe | false | nil,
          on_worker: (Cluster.worker() -> term()) | nil,
          functions: [Callback.t()],
          counted?: boolean(),
          metadata: map(),
          within: struct() | nil,
          budgets: [Budgets.t()],
          part?: boolean(),
          batch: OpenBatches.t(),
          resolves?: boolean()
        }
  @type python :: %{optional(atom()) => term()}

  # The options that every function takes. Python knows the first three only by name, so that it can suggest them.
  @every [:pool, :timeout, :serialization_format, :strict, :retry, :metadata]

  @doc """
  Reads the options of a call; raises `ArgumentError` for a wrong form, and for a wrong value of an option of every function.

  `default_timeout` is the timeout of an operation for which the options name none.
  """
  @spec new!(keyword() | map(), timeout()) :: t()
  def new!(options, default_timeout \\ 30_000)

  # The most frequent call.
  def new!([], default_timeout), do: %__MODULE__{timeout: default_timeout}

  def new!(options, default_timeout) do
    # A list is gone through in fewer steps than a map.
    given = options |> to_map!() |> Map.to_list()
    once = Keywords.check(options, "opts")
    Enum.reduce(given, %__MODULE__{timeout: default_timeout, once: once}, &read!/2)
  end

  defp read!({:pool, pool}, read), do: %{read | pool: pool!(pool), pool_given?: true}
  defp read!({:timeout, timeout}, read), do: %{read | timeout: timeout!(timeout)}

  defp read!({:serialization_format, format}, read),
    do: %{read | serialization_format: format!(format)}

  defp read!({:retry, retry}, read), do: %{read | retry: retry!(retry)}
  defp read!({:metadata, metadata}, read), do: %{read | metadata: metadata!(metadata)}
  # Python has it too, if the operation takes options there.
  defp read!({:strict, strict}, read), do: put(read, :strict, strict!(strict))
  defp read!({name, value}, read), do: put(read, name, value)

  @doc """
  Makes a map of options; raises `ArgumentError` unless they are a keyword list or a map with atom keys.
  """
  @spec to_map!(keyword() | map(), String.t()) :: %{optional(atom()) => term()}
  def to_map!(options, what \\ "options")

  def to_map!(options, what) when is_list(options) do
    if Keyword.keyword?(options),
      do: Map.new(options),
      else: raise(ArgumentError, expected(what) <> no_keywords(options))
  end

  def to_map!(options, what) when is_map(options) and not is_struct(options) do
    for name <- Map.keys(options),
        not is_atom(name),
        do: raise(ArgumentError, expected(what) <> "the key #{inspect(name)}")

    options
  end

  def to_map!(other, what),
    do: raise(ArgumentError, expected(what) <> inspect(other, limit: 5))

  # Shows no value, which may be the key of a model.
  defp no_keywords(options) do
    if List.improper?(options) do
      "an improper list"
    else
      case Enum.find(options, &(not match?({name, _value} when is_atom(name), &1))) do
        {name, _value} -> "the key #{inspect(name)}"
        _no_pair -> "a list with an element that is no option"
      end
    end
  end

  @doc """
  Raises `ArgumentError` if the payload of `ping/2`, which may be any other term, is a list of options of every function.
  """
  @spec refuse_payload!(term()) :: :ok
  def refuse_payload!([_first | _rest] = payload) do
    if Keyword.keyword?(payload) and Enum.all?(payload, &(elem(&1, 0) in @every)) do
      # Without the brackets.
      given = payload |> inspect() |> String.slice(1..-2//1)

      raise ArgumentError,
            "expected a payload before the options of ping/2, got options alone; write ping(nil, #{given})"
    end

    :ok
  end

  def refuse_payload!(_payload), do: :ok

  @doc """
  Raises `ArgumentError` if the limits of `open_session/3` are options of every function.
  """
  @spec refuse_limits!(term()) :: :ok
  def refuse_limits!([_first | _rest] = limits) do
    if Keyword.keyword?(limits) and Enum.any?(limits, &(elem(&1, 0) in @every)) do
      raise ArgumentError,
            "expected the limits of the session before the options of open_session/3, got both or options alone; " <>
              "write open_session(session_id, [max_cost: 0.5], pool: :reports), or [] in place of the limits"
    end

    :ok
  end

  def refuse_limits!(_limits), do: :ok

  @doc """
  Raises `ArgumentError` if the settings of `configure_lm/3` have an option of the call, which comes after them.
  """
  @spec refuse_config!(term()) :: :ok
  def refuse_config!([_first | _rest] = config) do
    # `:timeout` and `:retry` may be settings too.
    if Keyword.keyword?(config) and Enum.any?(config, &(elem(&1, 0) in [:pool, :session_id])) do
      given = for {name, value} <- config, name in [:pool, :session_id], do: {name, value}
      given = given |> inspect() |> String.slice(1..-2//1)

      raise ArgumentError,
            "expected the settings of the model before the options of configure_lm/3, got both in one list; " <>
              "write configure_lm(provider, [temperature: 0.5], #{given}), or [] in place of the settings"
    end

    :ok
  end

  def refuse_config!(_config), do: :ok

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
  Has several calls, which are made with these options, share what one of them may spend.
  """
  @spec share_budget(t()) :: t()
  def share_budget(%__MODULE__{} = options) do
    {budget, python} = Budgets.take(options.python)
    %{options | python: python, budgets: List.wrap(budget) ++ options.budgets}
  end

  @doc """
  Checks the names of options of an operation that asks about nothing of any caller, and takes no others than `taken`.

  A misspelt name is an error. Another name may belong to another operation that gets the same options: it is an error if the call or its
  pool is strict, and is ignored otherwise.
  """
  @spec check_names(t(), [atom()]) :: :ok | {:error, Error.t()}
  def check_names(%__MODULE__{python: python, pool: pool} = options, taken) do
    if strict?(python, pool),
      do: refuse_others(options, taken),
      else: check_misspelt(options, taken)
  end

  @doc """
  Checks the names of options of an operation that shows, changes or deletes something: a name other than those of every function and
  `taken` is an error.

  It may be meant to say what is deleted, or whose things are shown, and there is no prediction that would have a warning.
  """
  @spec refuse_others(t(), [atom()]) :: :ok | {:error, Error.t()}
  def refuse_others(%__MODULE__{python: python}, taken) do
    case Map.keys(python) -- (@every ++ taken) do
      [] -> :ok
      [name | _rest] -> {:error, unknown_option(name, taken)}
    end
  end

  @doc """
  Checks the names of options of which another part knows the rest: a misspelt one is an error.
  """
  @spec check_misspelt(t(), [atom()]) :: :ok | {:error, Error.t()}
  def check_misspelt(%__MODULE__{python: python}, taken) do
    known = @every ++ taken

    case Enum.find(Map.keys(python) -- known, &Suggestion.misspelt(&1, known)) do
      nil -> :ok
      name -> {:error, unknown_option(name, taken)}
    end
  end

  @doc """
  Adds the options of every function, which Python does not see, to its error about an option that is not among `taken`.
  """
  @spec explain_unknown(result, t(), [atom()]) :: result
        when result: {:ok, term()} | {:error, Error.t()}
  def explain_unknown({:error, %Error{kind: :input, path: path} = error}, options, taken) do
    unknown = for name <- Map.keys(options.python) -- taken, do: "opts.#{name}"

    if options.once == :ok and path in unknown,
      do: {:error, %{error | message: "#{error.message}, beside #{listed(@every)}"}},
      else: {:error, error}
  end

  def explain_unknown(result, _options, _taken), do: result

  @doc """
  Says of the error of a pool that there is not which option may have been meant to name another pool, if none does.
  """
  @spec explain_pool(Error.t(), t()) :: Error.t()
  def explain_pool(%Error{kind: :pool_not_found} = error, %__MODULE__{pool_given?: false} = given) do
    # `tool` is near to `pool` too.
    known = [:tools | @every]

    case Enum.find(Map.keys(given.python), &(Suggestion.misspelt(&1, known) == :pool)) do
      nil ->
        error

      name ->
        message =
          "#{error.message}; the call names no pool (did you mean :pool by #{inspect(name)}?)"

        path = "opts.#{name}"
        %{error | message: message, path: path, details: Map.put(error.details, "path", path)}
    end
  end

  def explain_pool(error, _options), do: error

  @doc """
  Returns the options for Python of an operation that executes something on behalf of a process, with its deadline, with the
  models in Python's form, and with the functions that Python must be able to call during the call.
  """
  @spec for_execution(t(), Settings.t(), CallerContext.t()) ::
          {:ok, python(), [Callback.t()]} | {:error, Error.t()}
  def for_execution(%__MODULE__{timeout: timeout, python: python} = options, settings, context) do
    python = if timeout == :infinity, do: python, else: Map.put(python, :timeout, timeout)

    # What the application has configured for its own calls.
    python = if settings.strict, do: Map.put_new(python, :strict, true), else: python

    python =
      if names_caller?(python),
        do: python,
        else: Map.put(python, :caller, caller(options.pool, context))

    text = CallerContext.to_text(context, settings.log_metadata)
    python = Map.put(python, :caller_context, text)
    {python, of_budgets} = with_budgets(python, settings, options)
    {python, redacting} = with_redactor(python, settings.redact)

    with {:ok, python, callbacks} <- with_models(python, Cluster.caller(options.pool)),
         do: with_resolver(python, redacting ++ of_budgets ++ callbacks, options.resolves?)
  end

  @doc """
  Gives a call that may be made again with `retry: :safe` a name that its repetition has too, and no other call.
  """
  @spec repeatable(t()) :: t()
  def repeatable(%__MODULE__{python: python} = options) do
    retry = if options.retry == nil, do: Cluster.settings(options.pool).retry, else: options.retry

    if retry == :safe,
      do: %{options | python: Map.put(python, :repetition, UniqueId.new(12))},
      else: options
  end

  # Longer than any text should need.
  @redact_timeout 5_000

  defp with_redactor(python, nil), do: {python, []}

  defp with_redactor(python, {module, function}) do
    redact = Function.capture(module, function, 1)
    callback = Callback.new("the function that redacts texts", redact, @redact_timeout)
    {Map.put(python, :redact, callback.id), [callback]}
  end

  defp with_budgets(python, settings, options) do
    case options.budgets ++ Settings.budgets(settings, options.metadata) do
      [] ->
        {python, []}

      budgets ->
        {budgets, callbacks} = budgets |> Enum.map(&Budgets.for_call/1) |> Enum.unzip()
        {Map.put(python, :budgets, budgets), callbacks}
    end
  end

  defp with_resolver(python, callbacks, false), do: {:ok, python, callbacks}

  defp with_resolver(python, callbacks, true) do
    resolver = Exported.resolver()
    {:ok, Map.put(python, :resolver, resolver.id), [resolver | callbacks]}
  end

  @doc """
  Converts the models at `:lm` and in `:adapter`, if there are any, to Python's form; returns their functions too.
  """
  @spec with_models(map(), ModelFunction.pool_call()) ::
          {:ok, map(), [Callback.t()]} | {:error, Error.t()}
  def with_models(options, pool_call) do
    with {:ok, options, callbacks} <- with_model_at(options, :lm, pool_call, "opts.lm"),
         {:ok, options, more} <- with_extraction_model(options, pool_call),
         do: {:ok, options, callbacks ++ more}
  end

  defp with_extraction_model(%{adapter: adapter} = options, pool_call)
       when (is_map(adapter) and not is_struct(adapter)) or is_list(adapter) do
    if is_map(adapter) or Keyword.keyword?(adapter) do
      with :ok <- Keywords.check(adapter, "opts.adapter"),
           {:ok, adapter, callbacks} <-
             with_model_at(
               Map.new(adapter),
               :extraction_model,
               pool_call,
               "opts.adapter.extraction_model"
             ),
           do: {:ok, %{options | adapter: adapter}, callbacks}
    else
      {:ok, options, []}
    end
  end

  defp with_extraction_model(options, _pool_call), do: {:ok, options, []}

  defp with_model_at(options, key, pool_call, path) do
    case options do
      %{^key => model} when model != nil ->
        with {:ok, model, callbacks} <- Model.for_call(model, pool_call, path),
             do: {:ok, %{options | key => model}, callbacks}

      _none ->
        {:ok, options, []}
    end
  end

  # For Python, a session is a caller too.
  defp names_caller?(%{caller: caller}) when caller != nil, do: true
  defp names_caller?(%{session_id: session_id}) when session_id != nil, do: true
  defp names_caller?(_python), do: false

  # The process that the work is done for: many tasks of one process share what it may have.
  defp caller({:cluster, _name}, context), do: "#{node()} #{caller(nil, context)}"
  defp caller(_pool, context), do: context.callers |> List.last() |> shown()

  # What `inspect/1` returns, without the steps of its algebra.
  defp shown(pid) when is_pid(pid), do: "#PID" <> IO.iodata_to_binary(:erlang.pid_to_list(pid))
  defp shown(other), do: inspect(other)

  defp strict?(%{strict: strict}, _pool), do: strict == true
  defp strict?(_python, pool), do: Cluster.settings(pool).strict

  defp unknown_option(name, taken) do
    known = @every ++ taken

    Error.new(
      :input,
      "unknown option #{inspect(name)} at opts#{Suggestion.hint(name, known)}; taken here: #{listed(known)}",
      %{"path" => "opts.#{name}"}
    )
  end

  defp listed(names), do: Enum.map_join(names, ", ", &inspect/1)

  defp pool!(pool) do
    if Cluster.pool?(pool) do
      pool
    else
      expected = ":pool to be a pool's name, an atom, or {:cluster, name},"
      raise ArgumentError, Messages.no_name(expected, pool)
    end
  end

  defp format!(format) when format in [:native, :json], do: format

  defp format!(other) do
    raise ArgumentError,
          "expected :serialization_format to be :native or :json, got #{inspect(other)}"
  end

  defp strict!(strict) when is_boolean(strict) or strict == nil, do: strict

  defp strict!(other),
    do: raise(ArgumentError, "expected :strict to be true or false, got #{inspect(other)}")

  defp retry!(retry) when retry in [nil, false, :safe], do: retry

  defp retry!(other),
    do: raise(ArgumentError, "expected :retry to be :safe or false, got #{inspect(other)}")

  defp metadata!(nil), do: %{}
  defp metadata!(metadata) when is_map(metadata) and not is_struct(metadata), do: metadata

  # The value may be anything, also a secret.
  defp metadata!(other) do
    raise ArgumentError,
          "expected :metadata to be a map, such as %{tenant: \"acme\"}, got #{kind(other)}"
  end

  defp kind(%module{}), do: "a #{inspect(module)}"
  defp kind(value) when is_list(value), do: "a list"
  defp kind(value) when is_binary(value), do: "text"
  defp kind(value) when is_number(value), do: "a number"
  defp kind(value) when is_atom(value), do: "an atom"
  defp kind(_other), do: "another term"

  defp timeout!(timeout) do
    if Timeout.valid?(timeout), do: timeout, else: raise(ArgumentError, timeout_expected(timeout))
  end

  defp expected(what), do: "expected #{what} as a keyword list or a map with atom keys, got "

  defp timeout_expected(timeout) do
    "expected :timeout in ms, from 1 to #{Timeout.max_ms()}, or :infinity, got #{inspect(timeout)}"
  end
end
