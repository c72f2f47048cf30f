defmodule DSPex.Python.Call.Operation do
  @moduledoc false

  # Calls an operation of Python: as terms or as JSON, with the functions that Python may call during the call, or as a
  # stream of events.

  alias DSPex.Python.Call.{CallOptions, EveryWorker, EventStream, Observation, StructHints}
  alias DSPex.Python.{Callbacks, Cluster, Error, JSON, ModuleSpec}
  alias DSPex.Python.Functions.{Callback, CallerContext}
  alias DSPex.Python.Pool.Routing
  alias DSPex.Suggestion

  # The operations that execute a module by its spec; the others execute a program of a session.
  @of_modules [:validate_module, :execute_module, :stream_module, :execute_batch, :stream_batch]

  # Streams whose results may have been read when their worker dies. Made again, they would have them twice.
  @of_results [:stream_batch, :stream_program_batch, :stream_evaluate]

  # What must not be added to the store twice if a call is made again.
  @adding_turns [:execute_program]

  @typep result :: {:ok, term()} | {:error, Error.t()}

  @doc """
  Calls an operation by its name with its positional arguments.
  """
  @spec call(atom(), [term()], CallOptions.t()) :: result()
  def call(operation, args, %CallOptions{} = options)
      when is_atom(operation) and is_list(args) do
    Observation.span(operation, options, fn -> request(operation, args, options) end)
  end

  @doc """
  Calls an operation as `call/3` does, after a check of the names of its options: it takes those of every function, and `taken`.
  """
  @spec look_up(atom(), [term()], CallOptions.t(), [atom()]) :: result()
  def look_up(operation, args, options, taken \\ [])

  def look_up(operation, _args, _options, _taken) when not is_atom(operation) or operation == nil,
    do: refused("the name of an operation, such as :ping,", "operation", operation)

  def look_up(_operation, args, _options, _taken) when not is_list(args),
    do: refused("a list of arguments, [] for none,", "arguments", args)

  def look_up(operation, args, options, taken) do
    Observation.span(operation, options, fn ->
      with :ok <- CallOptions.check_names(options, taken), do: request(operation, args, options)
    end)
  end

  defp refused(expected, path, got) do
    message =
      "expected #{expected} at #{path}, got #{inspect(got, limit: 5)}#{Suggestion.list_hint(got)}"

    {:error, Error.new(:input, message, %{"path" => path})}
  end

  @doc """
  Calls an operation that shows, changes or deletes something: as `look_up/4`, but any other option is an error.
  """
  @spec look_among(atom(), [term()], CallOptions.t(), [atom()]) :: result()
  def look_among(operation, args, options, taken \\ []) do
    Observation.span(operation, options, fn ->
      with :ok <- CallOptions.refuse_others(options, taken), do: request(operation, args, options)
    end)
  end

  @doc """
  Calls an operation that executes something: a module by its spec, or a program of a session.

  The arguments of the operation are `executed`, `args` and the options. Python may call the functions in them during the
  call.
  """
  @spec execute(atom(), term(), [term()], CallOptions.t()) :: result()
  def execute(operation, executed, args, options) do
    Observation.run(operation, options, about(operation, executed, args), fn options, _call ->
      request_with_functions(operation, [], executed, args, options, CallerContext.current())
    end)
  end

  @doc """
  Returns what a call is about, for its events.
  """
  @spec about(atom(), term(), [term()]) :: Observation.about()
  def about(operation, module, _args) when operation in @of_modules,
    do: %{module: module_name(module)}

  def about(_operation, session_id, [program_id | _rest]) do
    session = if session_id, do: %{session: session_id}, else: %{}
    Map.put(session, :program, program_id)
  end

  defp module_name(%{module: module}), do: module_name(module)
  defp module_name(%{"module" => module}), do: module_name(module)
  defp module_name(name) when is_binary(name), do: name
  defp module_name(name) when is_atom(name), do: inspect(name)
  defp module_name(_other), do: nil

  @doc """
  Returns the lazy stream of the events of an operation, `{:event, map}`, which ends with its result. Arguments as in
  `execute/4`.
  """
  @spec stream(atom(), term(), [term()], CallOptions.t()) :: Enumerable.t()
  def stream(operation, executed, args, options) do
    buffer = EventStream.buffer!(options.python)
    # Events are messages of terms; JSON is a format of calls only, with the same results.
    options = CallOptions.put(%{options | serialization_format: :native}, :buffer, buffer)
    options = if operation in @of_results, do: %{options | retry: false}, else: options

    about = about(operation, executed, args)
    observe = fn -> Observation.start(operation, options, about) end

    EventStream.new(options.pool, observe, buffer, fn options, reply_to, ref, context ->
      options = %{options | on_worker: &EventStream.runs_in(reply_to, ref, &1)}
      request_with_functions(operation, [reply_to, ref], executed, args, options, context)
    end)
  end

  # The functions run on behalf of `context`.
  defp request_with_functions(operation, first_args, executed, args, options, context) do
    options = if operation in @adding_turns, do: CallOptions.repeatable(options), else: options

    settings = Cluster.settings(options.pool)

    with {:ok, python_options, of_model} <-
           CallOptions.for_execution(options, settings, context),
         {:ok, executed, python_options, callbacks} <-
           ModuleSpec.read(executed, python_options, Cluster.caller(options.pool)) do
      callbacks = of_model ++ callbacks

      callbacks
      |> Callback.on_behalf(context)
      |> Callback.quiet(settings.redact != nil)
      |> Callbacks.during(fn ->
        operation
        |> request(first_args ++ [executed | args] ++ [python_options], %{
          options
          | functions: callbacks
        })
        |> StructHints.explain(List.last(args), %{
          "opts" => options.python,
          "spec" => executed,
          "module" => executed,
          "signature" => hd(args)
        })
      end)
    end
  end

  defp request(operation, args, %CallOptions{pool: pool} = options) do
    args = Routing.with_session(operation, args)

    with :ok <- options.once do
      EveryWorker.call(pool, operation, args, fn args, route ->
        options = %{options | route: route || options.route}

        options.serialization_format
        |> call_as(operation, args, options)
        |> explain_missing(options)
      end)
    end
  end

  defp call_as(:native, operation, args, options) do
    with {:ok, answer} <-
           Cluster.call(options.pool, operation, args, options.timeout, pool_options(options)),
         do: answer(answer)
  end

  defp call_as(:json, operation, args, options) do
    pool_options = [named: {operation, args}] ++ pool_options(options)

    with :ok <- Cluster.check_request(options.pool, args),
         {:ok, text} <- encode_json(args),
         {:ok, answer} <-
           Cluster.call(
             options.pool,
             :handle_json,
             [Atom.to_string(operation), text],
             options.timeout,
             pool_options
           ) do
      json_answer(answer)
    end
  end

  # The most frequent call.
  defp pool_options(%{route: nil, retry: nil, on_worker: nil, functions: [], part?: false}),
    do: []

  defp pool_options(options) do
    [
      route: options.route,
      retry: options.retry,
      on_worker: options.on_worker,
      functions: options.functions,
      part?: options.part?
    ]
  end

  defp answer({:ok, _value} = ok), do: ok
  defp answer({:ok, value, spans}), do: {:ok, {:traced, value, spans}}

  defp answer({:error, {:python_exception, details}, spans}) when is_map(details),
    do: {:error, %{Error.from_details(details) | trace: spans}}

  defp answer({:error, {:python_exception, details}}) when is_map(details),
    do: {:error, Error.from_details(details)}

  # Of an operation that answers JSON itself.
  defp answer({:error, text}) when is_binary(text), do: json_answer({:error, text})

  defp answer(other),
    do: {:error, Error.new(:internal, "unexpected answer #{inspect(other, limit: 5)}")}

  defp json_answer({status, text}) when status in [:ok, :error] and is_binary(text) do
    case {status, JSON.decode(text)} do
      {:ok, {:ok, value}} ->
        {:ok, value}

      {:error, {:ok, details}} when is_map(details) ->
        {:error, Error.from_details(details)}

      {_status, _no_json} ->
        {:error, Error.new(:internal, "python answered with text that is not JSON")}
    end
  end

  defp json_answer({status, text, spans}) do
    case json_answer({status, text}) do
      {:ok, value} -> {:ok, {:traced, value, spans}}
      {:error, error} -> {:error, %{error | trace: spans}}
    end
  end

  defp json_answer(other), do: answer(other)

  defp encode_json(args) do
    with {:error, reason, path} <- JSON.encode(args) do
      {:error,
       Error.new(:input, "#{reason}, at argument #{path}; use serialization_format: :native", %{
         "path" => path
       })}
    end
  end

  # Adds what Python does not know: where the pool's model is configured, or why that failed; in which pool there is no such
  # program or session; and to an error about a missing pool, whether a misspelt option was meant to name another one.
  defp explain_missing({:error, %Error{kind: :lm_not_configured} = error}, %{pool: pool}) do
    case Cluster.check_model(pool) do
      {:missing, message} -> {:error, %{error | message: message}}
      {:failed, cause} -> {:error, cause}
      _configured -> {:error, error}
    end
  end

  defp explain_missing({:error, %Error{kind: kind} = error}, %{pool: pool})
       when kind in [:program_not_found, :session_not_found],
       do: {:error, %{error | message: "#{error.message} (in the pool #{inspect(pool)})"}}

  defp explain_missing({:error, error}, options),
    do: {:error, CallOptions.explain_pool(error, options)}

  defp explain_missing(result, _options), do: result
end
