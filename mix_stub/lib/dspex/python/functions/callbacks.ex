defmodule DSPex.Python.Callbacks do
  @moduledoc """
  Lets Python call Elixir functions: those that are registered, by id, and no others.

  `DSPex.Python.execute_module/4` and similar functions register the functions among their `:tools` for as long as the
  call takes. A registration ends with `unregister/1` and with the process that made it, whichever comes first.
  Invocations that still run are killed then, and Python gets an error for each.

  Each invocation runs in a process of its own; its `$callers` lead to the process that registered the function. A
  function that raises, exits, throws, is killed, or takes longer than its `timeout` affects nothing else. Python gets an
  error of one sentence, and the log gets an entry with the stacktrace.

  Functions are copied to the process that runs them, with all that they have closed over.
  """

  alias DSPex.Python.Functions.{Callback, CallbackRegistry, Invocation, ModelRequests}
  alias DSPex.Python.Wire.Protocol

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
  Calls a registered function with a map of arguments, as Python does, and returns its result; raises if it fails.

  The real ErlPort calls this function, because ErlPort calls what Python names.
  """
  @spec call(String.t(), map()) :: term()
  def call(id, arguments) do
    case Invocation.run(id, arguments, & &1) do
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
  # Answers a call that Python made, in new processes. The calling process, the owner of `port`, gets the message
  # `{:python_answer, port, frame}`.
  @spec answer(binary(), Protocol.id(), port()) :: pid()
  def answer(frame, id, port) do
    owner = self()
    spawn(fn -> send(owner, {:python_answer, port, answer_frame(frame, id)}) end)
  end

  defp answer_frame(frame, id) do
    case Protocol.decode_call(frame) do
      {:ok, __MODULE__, :call, [callback_id, arguments]} ->
        Protocol.answer_frame(
          id,
          Invocation.run(callback_id, arguments, &Protocol.encode_result/1)
        )

      {:ok, __MODULE__, :cancel, [token]} ->
        Protocol.answer_frame(id, {:ok, token |> cancel() |> Protocol.encode_result()})

      _anything_else ->
        Protocol.answer_frame(
          id,
          {:error, "python may call registered functions only, by DSPex.Python.Callbacks.call/2"}
        )
    end
  end
end
