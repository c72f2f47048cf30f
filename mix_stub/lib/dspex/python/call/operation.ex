defmodule DSPex.Python.Call.Operation do
  @moduledoc false

  # Calls an operation of Python: as terms or as JSON, with the functions that Python may call during the call, or as a
  # stream of events.

  alias DSPex.Python.Call.{CallOptions, EventStream, StructHints}
  alias DSPex.Python.{Callbacks, Error, JSON, ModuleSpec, Pool}

  @typep result :: {:ok, term()} | {:error, Error.t()}

  @doc """
  Calls an operation by its name with its positional arguments.
  """
  @spec call(atom(), [term()], CallOptions.t()) :: result()
  def call(operation, args, %CallOptions{pool: pool} = options)
      when is_atom(operation) and is_list(args) do
    # Not Code.ensure_loaded?/1: without the module it searches the disk for a millisecond in each call. A module that
    # is not loaded has no handlers either.
    started = if function_exported?(:telemetry, :execute, 3), do: System.monotonic_time()

    result =
      options.serialization_format
      |> call_as(pool, operation, args, options.timeout)
      |> explain_missing_model(pool)

    if started, do: emit_stop(System.monotonic_time() - started, pool, operation, result)
    result
  end

  @doc """
  Calls an operation as `call/3` does, after a check of the names of its options: it takes those of every function, and `taken`.
  """
  @spec look_up(atom(), [term()], CallOptions.t(), [atom()]) :: result()
  def look_up(operation, args, options, taken \\ []) do
    with :ok <- CallOptions.check_names(options, taken), do: call(operation, args, options)
  end

  @doc """
  Calls an operation that executes something: a module by its spec, or a program of a session.

  The arguments of the operation are `executed`, `args` and the options. Python may call the functions in them during the
  call.
  """
  @spec execute(atom(), term(), [term()], CallOptions.t()) :: result()
  def execute(operation, executed, args, options),
    do: call_with_functions(operation, [], executed, args, options)

  @doc """
  Returns the lazy stream of the events of an operation, `{:event, map}`, which ends with its result. Arguments as in
  `execute/4`.
  """
  @spec stream(atom(), term(), [term()], CallOptions.t()) :: Enumerable.t()
  def stream(operation, executed, args, options) do
    buffer = EventStream.buffer!(options.python)
    # Events are messages of terms; JSON is a format of calls only, with the same results.
    options = CallOptions.put(%{options | serialization_format: :native}, :buffer, buffer)

    EventStream.new(options.pool, buffer, fn reply_to, ref ->
      call_with_functions(operation, [reply_to, ref], executed, args, options)
    end)
  end

  defp call_with_functions(operation, first_args, executed, args, options) do
    with {:ok, python_options, of_model} <- CallOptions.for_execution(options),
         {:ok, executed, python_options, callbacks} <-
           ModuleSpec.read(executed, python_options, Pool.caller(options.pool)) do
      Callbacks.during(of_model ++ callbacks, fn ->
        operation
        |> call(first_args ++ [executed | args] ++ [python_options], options)
        |> StructHints.explain(List.last(args))
      end)
    end
  end

  defp call_as(:native, pool, operation, args, timeout) do
    with {:ok, answer} <- Pool.call(pool, operation, args, timeout), do: answer(answer)
  end

  defp call_as(:json, pool, operation, args, timeout) do
    with {:ok, text} <- encode_json(args),
         {:ok, answer} <-
           Pool.call(pool, :handle_json, [Atom.to_string(operation), text], timeout) do
      json_answer(answer)
    end
  end

  defp call_as(format, _pool, _operation, _args, _timeout) do
    raise ArgumentError,
          "expected :serialization_format to be :native or :json, got #{inspect(format)}"
  end

  defp answer({:ok, _value} = ok), do: ok

  defp answer({:error, {:python_exception, details}}) when is_map(details),
    do: {:error, Error.from_details(details)}

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

  defp json_answer(other), do: answer(other)

  defp encode_json(args) do
    with {:error, reason, path} <- JSON.encode(args) do
      {:error,
       Error.new(:input, "#{reason}, at argument #{path}; use serialization_format: :native", %{
         "path" => path
       })}
    end
  end

  # Adds what Python does not know: where the pool's model is configured, or why that failed.
  defp explain_missing_model({:error, %Error{kind: :lm_not_configured} = error}, pool) do
    case Pool.model_state(pool) do
      {:ok, :none} -> {:error, %{error | message: Pool.model_missing_message(pool)}}
      {:ok, {:failed, cause}} -> {:error, cause}
      _configured -> {:error, error}
    end
  end

  defp explain_missing_model(result, _pool), do: result

  defp emit_stop(duration, pool, operation, result) do
    metadata = %{pool: pool, operation: operation, result: outcome(result)}
    # By apply/3, because the module may not exist when this one is compiled.
    apply(:telemetry, :execute, [
      [:dspex, :python, :call, :stop],
      %{duration: duration},
      metadata
    ])
  end

  defp outcome({:ok, _value}), do: :ok
  defp outcome({:error, error}), do: error.kind
end
