defmodule DSPex.ChaosCallers do
  @moduledoc """
  Callers that make calls of a pool without a pause, for tests that break its processes meanwhile, and their verdicts on each
  answer.
  """

  import ExUnit.Assertions

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}

  @signature "question -> answer"
  @kinds [:ping, :execute, :stream, :tool, :batch]

  @doc """
  Starts so many callers; `stop/1` ends them and returns what they have seen.
  """
  def start(pool, count, options \\ []) do
    kinds = Keyword.get(options, :kinds, @kinds)
    stop = :atomics.new(1, [])

    callers =
      for number <- 0..(count - 1) do
        kind = Enum.at(kinds, rem(number, length(kinds)))
        Task.async(fn -> call_on(kind, pool, stop, []) end)
      end

    {stop, callers}
  end

  @doc """
  Ends the callers after their current call; returns `{kind, verdict, began_at, ended_at}` of each call, in ms of the
  monotonic clock. Every caller must have an answer within `timeout` ms.
  """
  def stop({stop, callers}, timeout \\ 90_000) do
    :atomics.put(stop, 1, 1)
    callers |> Task.await_many(timeout) |> Enum.concat()
  end

  defp call_on(kind, pool, stop, seen) do
    began_at = now()
    verdict = call(kind, pool)
    seen = [{kind, verdict, began_at, now()} | seen]
    if :atomics.get(stop, 1) == 1, do: seen, else: call_on(kind, pool, stop, seen)
  end

  @doc "Returns the time by which calls are noted."
  def now, do: System.monotonic_time(:millisecond)

  defp call(:ping, pool) do
    payload = make_ref()

    case Python.ping(payload, pool: pool, timeout: 60_000) do
      {:ok, %{"payload" => ^payload}} -> :right
      other -> failure(other)
    end
  end

  defp call(:execute, pool) do
    word = word()

    model = fn _request ->
      Process.sleep(:rand.uniform(20))
      ScriptedModel.written(answer: word)
    end

    outcome(Python.execute_module("dspy.Predict", @signature, "?", options(pool, model)), word)
  end

  defp call(:stream, pool) do
    word = word()

    model = fn _request ->
      word |> then(&ScriptedModel.written(answer: &1)) |> String.codepoints()
    end

    stream = Python.stream("dspy.Predict", @signature, "?", options(pool, model))

    case stream |> Enum.to_list() |> List.last() do
      {:prediction, prediction} -> outcome({:ok, prediction}, word)
      error -> failure(error)
    end
  end

  defp call(:tool, pool) do
    word = word()
    tool = %{name: "look", description: "Looks", function: fn %{} -> word end}

    steps = fn request ->
      if ScriptedModel.text(request) =~ word,
        do:
          ScriptedModel.written(
            next_thought: "done",
            next_tool_name: "finish",
            next_tool_args: %{},
            reasoning: "r",
            answer: word
          ),
        else:
          ScriptedModel.written(next_thought: "look", next_tool_name: "look", next_tool_args: %{})
    end

    options = [tools: [tool]] ++ options(pool, steps)
    outcome(Python.execute_module("dspy.ReAct", @signature, "?", options), word)
  end

  # Each item has its own result, in order.
  defp call(:batch, pool) do
    words = for _ <- 1..12, do: word()

    model = fn request ->
      Process.sleep(5)
      [word] = Regex.run(~r/word\d+x/, List.last(request.messages).content)
      ScriptedModel.written(answer: word)
    end

    case Python.execute_batch("dspy.Predict", @signature, words, options(pool, model)) do
      {:ok, results} ->
        assert length(results) == length(words)
        verdicts = for {result, word} <- Enum.zip(results, words), do: outcome(result, word)
        Enum.find(verdicts, :right, &(&1 not in [:right, :worker_died])) |> worst(verdicts)

      error ->
        failure(error)
    end
  end

  defp worst(:right, verdicts), do: if(:worker_died in verdicts, do: :worker_died, else: :right)
  defp worst(other, _verdicts), do: other

  defp options(pool, model), do: [pool: pool, lm: {:elixir, model}, timeout: 60_000]
  defp word, do: "word#{:rand.uniform(1_000_000_000)}x"

  defp outcome({:ok, prediction}, word),
    do: if(prediction[:answer] == word, do: :right, else: {:wrong, prediction[:answer]})

  defp outcome(error, _word), do: failure(error)

  defp failure({:error, %Error{kind: :worker_died, retryable: true}}), do: :worker_died

  # Only a call that was in flight at two deaths in a row.
  defp failure({:error, %Error{kind: :worker_died, message: message}} = error),
    do: if(message =~ "in flight at two deaths of python in a row", do: :quarantined, else: error)

  # A call that waits for a Python, and the one that is being started is killed: no other is there then.
  defp failure({:error, %Error{kind: :port_closed, retryable: true} = error}) do
    killed = ~r/was killed by signal \d+ before it was ready/
    if error.message =~ killed, do: :none_started, else: {:error, error}
  end

  defp failure(other), do: other
end
