defmodule DSPex.Python.Callbacks do
  @moduledoc """
  Lets Python call Elixir functions: those that are registered, by id, and no others.

  `DSPex.Python.execute_module/4` and similar functions register the functions among their `:tools` for as long as the
  call takes. A registration ends with `unregister/1` and with the process that made it, whichever comes first.
  Invocations that still run are killed then, and Python gets an error for each.

  Each invocation runs in a process of its own, on behalf of the process that made the call (that reads the stream, that
  configured the model): it has its `$callers` and `$ancestors`, as a task of it would have, and its `Logger.metadata/0`. So
  Mox, Ecto's sandbox and the like find a test from there. A function that was configured before the call, such as the model of a
  pool, also has the `$callers` of the process that made the call, behind its own, and the metadata that the pool's Python logs with
  (`:log_metadata`). A function that raises, exits, throws, is killed, or takes longer than its `timeout` affects nothing else. Python gets an
  error of one sentence, and the log gets an entry with the stacktrace, with the metadata `:pool` and, if the call has one,
  `:request_id`.

  Functions are copied to the process that runs them, with all that they have closed over.
  """

  alias DSPex.Python.Functions.{Callback, CallbackRegistry, Exported, Invocation, ModelRequests}
  alias DSPex.Python.Wire.{Limits, Protocol}

  @typedoc "Ends a registration."
  @type registration :: CallbackRegistry.registration()

  @doc """
  Runs `work` while Python may call `callbacks`.
  """
  @spec during([Callback.t()], (... -> result)) :: result when result: term()
  def during([], work), do: work.()

  def during(callbacks, work) do
    registration = register(callbacks)

    try do
      work.()
    after
      unregister(registration)
    end
  end

  @doc """
  Lets Python call `callbacks` until `unregister/1`, or until their owner ends, by default the calling process.

  Returns `nil` if the application `:dspex` has not been started; then there is no Python either.
  """
  @spec register([Callback.t()], pid()) :: registration() | nil
  def register(callbacks, owner \\ self()), do: CallbackRegistry.register(callbacks, owner)

  @doc """
  Ends a registration. Invocations that still run are killed.
  """
  @spec unregister(registration() | nil) :: :ok
  defdelegate unregister(registration), to: CallbackRegistry

  @doc """
  Returns the callback by which Python calls functions that modules export (`DSPex.Python.Exports`): its `id` is the option
  `resolver` of the call of a stored program under the real ErlPort.
  """
  @spec resolver() :: Callback.t()
  defdelegate resolver, to: Exported

  @doc """
  Calls a registered function with a map of arguments, as Python does, and returns its result; raises if it fails.

  The real ErlPort calls this function, because ErlPort calls what Python names.
  """
  @spec call(String.t(), map(), String.t() | nil, String.t() | nil) :: term()
  def call(id, arguments, request_id \\ nil, caller \\ nil) do
    case Invocation.run(id, arguments, & &1, log([], request_id), caller) do
      {:ok, value} -> value
      {:error, message} -> raise message
    end
  end

  @doc """
  Ends the request to a model function to which Python gave this token.
  """
  @spec cancel(term()) :: boolean()
  defdelegate cancel(token), to: ModelRequests

  @doc """
  Counts the registered functions and the running invocations.
  """
  @spec count() :: %{registered: non_neg_integer(), running: non_neg_integer()}
  defdelegate count(), to: CallbackRegistry

  @doc false
  # Answers a call that Python made, in new processes. The calling process, the owner of `port` of the pool, gets the message
  # `{:python_answer, port, frame}`. A result of more than `max_bytes` is a failure of the function.
  @spec answer(binary(), Protocol.id(), port(), atom(), pos_integer()) :: pid()
  def answer(frame, id, port, pool, max_bytes) do
    owner = self()
    spawn(fn -> send(owner, {:python_answer, port, answer_frame(frame, id, pool, max_bytes)}) end)
  end

  defp answer_frame(frame, id, pool, max_bytes) do
    case Protocol.decode_call(frame) do
      # Without the id of the request and its caller if there are none.
      {:ok, __MODULE__, :call, [callback_id, arguments | rest]} ->
        log = log([pool: pool], List.first(rest))
        caller = Enum.at(rest, 1)

        answer =
          case Invocation.run(callback_id, arguments, &encoded(&1, max_bytes), log, caller) do
            {:ok, encoded_or_error} -> encoded_or_error
            error -> error
          end

        Protocol.answer_frame(id, answer)

      {:ok, __MODULE__, :cancel, [token]} ->
        Protocol.answer_frame(id, {:ok, token |> cancel() |> Protocol.encode_result()})

      _anything_else ->
        Protocol.answer_frame(
          id,
          {:error, "python may call registered functions only, by DSPex.Python.Callbacks.call/2"}
        )
    end
  end

  # In the process of the function, whose memory it takes.
  defp encoded(result, max_bytes) do
    with :ok <- Limits.check_result(result, max_bytes), do: {:ok, Protocol.encode_result(result)}
  end

  # Without an id the entry keeps the `:request_id` that the caller's own metadata may have.
  defp log(metadata, request_id) when is_binary(request_id),
    do: [{:request_id, request_id} | metadata]

  defp log(metadata, _no_id), do: metadata
end
