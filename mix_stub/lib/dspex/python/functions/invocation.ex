defmodule DSPex.Python.Functions.Invocation do
  @moduledoc false

  # Runs a registered function once. Two processes take part: one waits for the result, the time limit and the end of the
  # registration; the other runs the function, and may be killed at any moment.

  require Logger

  alias DSPex.Python.Functions.{CallbackRegistry, CallerContext, Exported}

  # Enough for who wrote the function. Python shows a language model less of the error of a tool.
  @max_characters 500
  @ended "there is no such function any more: the call has ended, or the Python for which it was configured; " <>
           "configure it again"

  @doc """
  Calls a registered function and returns `{:ok, finish.(result)}`, or one sentence about what went wrong. `finish` is
  called in the process of the function.

  `{:ok, value}` from the function counts as `value`; `{:error, reason}` is a failure. `log` is the metadata of the log entry
  about an exception, with the `:pool` of the call if it is known; `caller` what Python has of the process that made the call (`CallerContext.to_text/2`).
  """
  @spec run(term(), term(), (term() -> finished), keyword(), term()) ::
          {:ok, finished} | {:error, String.t()}
        when finished: term()
  def run(id, arguments, finish, log \\ [], caller \\ nil) do
    with true <- is_binary(id) and is_map(arguments),
         {id, reference} = Exported.split(id),
         {:ok, running, callback} <- CallbackRegistry.begin(id) do
      answer =
        with {:ok, callback} <- Exported.callback(callback, reference) do
          context = CallerContext.add(callback.context, CallerContext.from_text(caller))
          run_within_limits(%{callback | context: context}, arguments, finish, log, running)
        end

      CallbackRegistry.finished(running)
      answer
    else
      _not_registered -> {:error, @ended}
    end
  end

  @doc """
  Tells whether the calling process runs such a function, or works on behalf of one, as its tasks do; with a name, whether
  the function runs for a call of the pool of this name.
  """
  @spec on_behalf?(atom()) :: boolean()
  def on_behalf?(pool \\ :any),
    do: Enum.any?([self() | Process.get(:"$callers") || []], &runs?(&1, pool))

  defp runs?(pid, pool) when is_pid(pid) and node(pid) == node() do
    with {:dictionary, dictionary} <- Process.info(pid, :dictionary),
         {__MODULE__, {:running_for, its_pool}} <- List.keyfind(dictionary, __MODULE__, 0),
         do: pool in [:any, its_pool],
         else: (_no_function -> false)
  end

  defp runs?(_elsewhere, _pool), do: false

  defp run_within_limits(callback, arguments, finish, log, running) do
    waiting = self()
    answered = make_ref()
    work = fn -> send(waiting, {answered, result(callback, arguments, finish, log)}) end
    {pid, monitor} = spawn_monitor(work)

    # A function is killed when the registry ends: without the registry, the end of the call would go unnoticed.
    registry = Process.monitor(CallbackRegistry)

    answer =
      receive do
        {^answered, answer} ->
          answer

        {:DOWN, ^monitor, :process, _pid, reason} ->
          {:error, ended(reason)}

        {:ended, ^running} ->
          {:given_up, "the call that it was made for has ended"}

        {:DOWN, ^registry, :process, _pid, _reason} ->
          {:given_up, "the registry of functions has ended"}
      after
        callback.timeout -> {:given_up, "no answer within #{callback.timeout} ms"}
      end

    Process.demonitor(registry, [:flush])

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

  # Takes an answer out of the mailbox that was sent at the last moment; none can come after the end of its sender.
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

  defp result(callback, arguments, finish, log) do
    CallerContext.adopt(callback.context)
    Process.put(__MODULE__, {:running_for, log[:pool]})

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
            logged(callback, kind, reason, __STACKTRACE__),
          log
        )

        {:error, kind |> failure(reason, __STACKTRACE__) |> sentence()}
    end
  end

  defp logged(%{quiet?: false}, kind, reason, stacktrace),
    do: Exception.format(kind, reason, stacktrace)

  # The message may quote the arguments, and the stacktrace of a call that nothing matches has them.
  defp logged(_quiet, kind, reason, stacktrace) do
    what =
      with :error <- kind,
           %module{} <- Exception.normalize(kind, reason, stacktrace),
           do: inspect(module)

    places =
      for {module, function, arguments, place} <- stacktrace,
          do:
            {module, function, if(is_list(arguments), do: length(arguments), else: arguments),
             place}

    "** (#{what}) [redacted]\n" <> Exception.format_stacktrace(places)
  end

  defp failure(:error, reason, stacktrace) do
    case Exception.normalize(:error, reason, stacktrace) do
      %KeyError{key: key, term: term} = error when is_atom(key) and is_map(term) ->
        name = Atom.to_string(key)

        # The message would show the whole map, and end before what is wrong.
        if is_map_key(term, name),
          do:
            "there is no key #{inspect(key)}, but #{inspect(name)}: maps from Python have strings as keys",
          else: Exception.message(error)

      error ->
        Exception.message(error)
    end
  end

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
      line -> beginning(line)
    end
  end

  # Up to the end of a word.
  defp beginning(line) do
    if String.length(line) <= @max_characters do
      line
    else
      line
      |> String.slice(0, @max_characters - 1)
      |> String.replace(~r/\s+\S{0,63}$/u, "")
      |> Kernel.<>("…")
    end
  end
end
