defmodule DSPex.Python.Callbacks.Invocation do
  @moduledoc false

  # One call of a registered function. Two processes take part: one waits, for the answer, the time limit and the end of
  # the registration; the other runs the function, and may be killed at any moment without a trace.

  require Logger

  alias DSPex.Python.{Callbacks, Protocol}

  # A language model reads what went wrong; it needs no more, and pays for each word.
  @max_characters 200

  @doc """
  Answers a call that Python made, in new processes: the calling one, the owner of `port`, gets the message
  `{:python_answer, port, frame}`.
  """
  @spec answer(binary(), Protocol.id(), port()) :: pid()
  def answer(frame, id, port) do
    owner = self()
    spawn(fn -> send(owner, {:python_answer, port, answer_frame(frame, id)}) end)
  end

  @doc """
  Calls a registered function and gives `{:ok, finish.(result)}`, or one sentence about what went wrong. `finish` is
  called in the process of the function.

  A function that gives `{:ok, value}` gives the value; `{:error, reason}` is a failure.
  """
  @spec run(term(), term(), (term() -> finished)) :: {:ok, finished} | {:error, String.t()}
        when finished: term()
  def run(id, arguments, finish) do
    with true <- is_binary(id) and is_map(arguments),
         {:ok, running, callback} <- Callbacks.begin(id) do
      answer = run_within_limits(callback, arguments, finish, running)
      Callbacks.finished(running)
      answer
    else
      _not_registered -> {:error, "there is no such function any more: the call has ended"}
    end
  end

  defp answer_frame(frame, id) do
    case Protocol.decode_call(frame) do
      {:ok, Callbacks, :call, [callback_id, arguments]} ->
        Protocol.answer_frame(id, run(callback_id, arguments, &Protocol.encode_result/1))

      {:ok, Callbacks, :cancel, [token]} ->
        Protocol.answer_frame(id, {:ok, token |> Callbacks.cancel() |> Protocol.encode_result()})

      _anything_else ->
        Protocol.answer_frame(
          id,
          {:error, "python may call registered functions only, by DSPex.Python.Callbacks.call/2"}
        )
    end
  end

  defp run_within_limits(callback, arguments, finish, running) do
    waiting = self()
    answered = make_ref()
    work = fn -> send(waiting, {answered, result(callback, arguments, finish)}) end
    {pid, monitor} = spawn_monitor(work)
    # Functions end with their server too: without it nobody would tell of the end of the call.
    server = Process.monitor(Callbacks)

    answer =
      receive do
        {^answered, answer} ->
          answer

        {:DOWN, ^monitor, :process, _pid, reason} ->
          {:error, ended(reason)}

        {:ended, ^running} ->
          {:given_up, "the call that it was made for has ended"}

        {:DOWN, ^server, :process, _pid, _reason} ->
          {:given_up, "the registry of functions has ended"}
      after
        callback.timeout -> {:given_up, "no answer within #{callback.timeout} ms"}
      end

    Process.demonitor(server, [:flush])

    case answer do
      {:given_up, message} ->
        Process.exit(pid, :kill)
        discard(monitor, answered)
        {:error, message}

      answer ->
        Process.demonitor(monitor, [:flush])
        answer
    end
  end

  # An answer may have been sent at the last moment; after the end of its sender no more can come.
  defp discard(monitor, answered) do
    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end

    receive do
      {^answered, _late} -> :ok
    after
      0 -> :ok
    end
  end

  defp result(callback, arguments, finish) do
    Process.put(:"$callers", [callback.owner])

    try do
      case callback.function.(arguments) do
        {:ok, value} -> {:ok, finish.(value)}
        {:error, reason} -> {:error, reason |> text() |> sentence()}
        value -> {:ok, finish.(value)}
      end
    catch
      kind, reason ->
        Logger.error(
          "the function #{inspect(callback.name)}, called by python, failed: " <>
            Exception.format(kind, reason, __STACKTRACE__)
        )

        {:error, kind |> failure(reason, __STACKTRACE__) |> sentence()}
    end
  end

  defp failure(:error, reason, stacktrace),
    do: :error |> Exception.normalize(reason, stacktrace) |> Exception.message()

  defp failure(:throw, value, _stacktrace), do: "it threw #{shown(value)}"
  defp failure(:exit, reason, _stacktrace), do: ended(reason)

  defp ended(:killed), do: "it was killed"
  defp ended(reason), do: sentence("it exited: #{shown(reason)}")

  defp text(reason) when is_binary(reason), do: reason
  defp text(reason) when is_exception(reason), do: Exception.message(reason)
  defp text(reason), do: shown(reason)

  defp shown(term), do: inspect(term, limit: 10, printable_limit: @max_characters)

  defp sentence(text) do
    text = if String.valid?(text), do: text, else: inspect(text)

    case text |> String.split() |> Enum.join(" ") do
      "" -> "it failed without a message"
      line -> String.slice(line, 0, @max_characters)
    end
  end
end
