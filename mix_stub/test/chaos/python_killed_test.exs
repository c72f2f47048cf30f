defmodule DSPex.Chaos.PythonKilledTest do
  # Counts processes, ports and atoms of the whole node.
  use ExUnit.Case, async: false

  import DSPex.Chaos
  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}
  alias DSPex.Python.Port.{PendingCalls, SendQueue}

  @moduletag timeout: :infinity
  @moduletag :tmp_dir

  @callers 24
  @signature "question -> answer"

  test "the death of Python at random moments leaves nothing behind, and every caller has an answer",
       %{tmp_dir: marker} do
    seed = seed!()
    pool = start_pool!(python_path: [marker])

    # The first round makes what is made only once, such as atoms and the processes of the pool.
    capture_log(fn -> load_and_kill(pool, 2) end)
    before = settled_counts()

    capture_log(fn ->
      results = load_and_kill(pool, rounds(6))
      assert Enum.any?(results, &match?({_kind, :right}, &1)), seed

      for {kind, result} <- results do
        allowed = [:right, :worker_died] ++ if(kind == :ping, do: [], else: [:quarantined])
        assert result in allowed, "#{kind} gave #{inspect(result)}, #{seed}"
      end
    end)

    state = :sys.get_state(client(pool))
    assert {PendingCalls.count(state.pending_calls), SendQueue.count(state.send_queue)} == {0, 0}
    eventually(fn -> :sys.get_state(client(pool)).caller_monitors.monitors == %{} end)
    # Of all Pythons, one and its lifeline remain.
    eventually(fn -> length(marked(marker)) == 2 end)

    eventually(fn -> nothing_left?(before) end)
  end

  # Kills Python while callers make calls; returns their answers by the kind of call.
  defp load_and_kill(pool, rounds) do
    ended = :atomics.new(1, [])
    callers = for number <- 1..@callers, do: Task.async(fn -> call_on(pool, number, ended) end)

    for _round <- 1..rounds do
      {:ok, _pong} = eventually(fn -> ready(Python.ping(nil, pool: pool)) end)
      Process.sleep(:rand.uniform(200))
      signal(pool, "KILL")
    end

    {:ok, _pong} = eventually(fn -> ready(Python.ping(nil, pool: pool)) end)
    :atomics.put(ended, 1, 1)
    callers |> Task.await_many(120_000) |> List.flatten() |> Enum.uniq()
  end

  defp ready({:ok, _pong} = ok), do: ok
  defp ready({:error, %Error{kind: :worker_died}}), do: nil

  defp call_on(pool, number, ended) do
    Stream.repeatedly(fn -> call(rem(number, 4), pool) end)
    |> Enum.reduce_while([], fn result, results ->
      results = if result in results, do: results, else: [result | results]
      if :atomics.get(ended, 1) == 1, do: {:halt, results}, else: {:cont, results}
    end)
  end

  defp call(0, pool) do
    payload = make_ref()

    case Python.ping(payload, pool: pool) do
      {:ok, %{"payload" => ^payload}} -> {:ping, :right}
      other -> {:ping, failure(other)}
    end
  end

  defp call(1, pool) do
    word = "word#{:rand.uniform(1_000_000)}"

    model = fn _request ->
      Process.sleep(:rand.uniform(20))
      ScriptedModel.written(answer: word)
    end

    result =
      Python.execute_module("dspy.Predict", @signature, "?", pool: pool, lm: {:elixir, model})

    {:execute, outcome(result, word)}
  end

  defp call(2, pool) do
    word = "word#{:rand.uniform(1_000_000)}"

    model = fn _request ->
      word |> then(&ScriptedModel.written(answer: &1)) |> String.codepoints()
    end

    stream = Python.stream("dspy.Predict", @signature, "?", pool: pool, lm: {:elixir, model})

    case stream |> Enum.to_list() |> List.last() do
      {:prediction, prediction} -> {:stream, outcome({:ok, prediction}, word)}
      error -> {:stream, failure(error)}
    end
  end

  defp call(3, pool) do
    word = "word#{:rand.uniform(1_000_000)}"
    tool = %{name: "look", description: "Looks", function: fn %{} -> word end}

    steps = fn request ->
      if ScriptedModel.text(request) =~ "Observation" or ScriptedModel.text(request) =~ word do
        ScriptedModel.written(
          next_thought: "done",
          next_tool_name: "finish",
          next_tool_args: %{},
          reasoning: "r",
          answer: word
        )
      else
        ScriptedModel.written(next_thought: "look", next_tool_name: "look", next_tool_args: %{})
      end
    end

    result =
      Python.execute_module("dspy.ReAct", @signature, "?",
        pool: pool,
        lm: {:elixir, steps},
        tools: [tool]
      )

    {:tool, outcome(result, word)}
  end

  defp outcome({:ok, prediction}, word),
    do: if(prediction[:answer] == word, do: :right, else: {:wrong, prediction[:answer]})

  defp outcome(error, _word), do: failure(error)

  defp failure({:error, %Error{kind: :worker_died, retryable: true}}), do: :worker_died

  # Only a call that was in flight at two deaths in a row, and a ping never.
  defp failure({:error, %Error{kind: :worker_died, message: message}} = error),
    do: if(message =~ "in flight at two deaths of python in a row", do: :quarantined, else: error)

  defp failure(other), do: other
end
