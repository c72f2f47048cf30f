defmodule DSPex.Python.Operation do
  @moduledoc false

  # A call of an operation: as terms or as JSON, with the functions that Python may call meanwhile, or as a stream of events.

  alias DSPex.Python.{Callbacks, CallOptions, Error, EventStream, JSON, ModuleSpec, Pool}

  @typep result :: {:ok, term()} | {:error, Error.t()}

  @doc """
  Calls an operation by its name with its positional arguments.
  """
  @spec call(atom(), [term()], keyword() | map()) :: result()
  def call(operation, args, options) when is_atom(operation) and is_list(args) do
    options = CallOptions.new!(options)
    pool = CallOptions.pool!(options)

    # Not Code.ensure_loaded?/1: where there is no such module it searches the disk, a millisecond for each call. A
    # module that nobody has loaded has no handlers either.
    started = if function_exported?(:telemetry, :execute, 3), do: System.monotonic_time()

    result =
      options
      |> Map.get(:serialization_format, :native)
      |> call_as(pool, operation, args, CallOptions.timeout!(options))
      |> explain_missing_model(pool)

    if started, do: emit_stop(System.monotonic_time() - started, pool, operation, result)
    result
  end

  @doc """
  Gives `work` the module (or the session of a program) and the options as Python takes them; while it lasts, Python may
  call the functions in them.
  """
  @spec with_functions(term(), map(), (term(), map() -> result())) :: result()
  def with_functions(module, options, work) do
    with {:ok, python_options, of_model} <- CallOptions.for_execution(options),
         {:ok, module, python_options, callbacks} <-
           ModuleSpec.read(module, python_options, CallOptions.pool!(options)) do
      Callbacks.during(of_model ++ callbacks, fn -> work.(module, python_options) end)
    end
  end

  @doc """
  Gives the stream of the events of an operation, `{:event, map}`, and at last its result. `called` is a module's spec, or the
  session of a program.
  """
  @spec event_stream(map(), atom(), term(), [term()]) :: Enumerable.t()
  def event_stream(options, operation, called, args) do
    CallOptions.timeout!(options)
    buffer = EventStream.buffer!(options)
    # Events are messages of terms. JSON is a format of calls, with the same results.
    options = Map.merge(options, %{buffer: buffer, serialization_format: :native})

    call = fn reply_to, ref ->
      with_functions(called, options, fn called, python_options ->
        call(operation, [reply_to, ref, called | args] ++ [python_options], options)
      end)
    end

    options |> CallOptions.pool!() |> EventStream.new(buffer, call)
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

  # Python does not know where the pool's model was to be configured, and why it was not.
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
    # By apply/3: the module is somebody else's, and may not be there when this one is compiled.
    apply(:telemetry, :execute, [
      [:dspex, :python, :call, :stop],
      %{duration: duration},
      metadata
    ])
  end

  defp outcome({:ok, _value}), do: :ok
  defp outcome({:error, error}), do: error.kind
end
