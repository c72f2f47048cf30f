defmodule DSPex.Chaos.SharingTest do
  # What one call or caller does must not cost the others.
  use ExUnit.Case, async: false

  import DSPex.Chaos
  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}

  @moduletag timeout: :infinity
  @moduletag :tmp_dir
  @moduletag :long
  @signature "question -> answer"

  @tools """
  import os, signal, time
  from erlport_bridge.programs.tools import offer

  @offer
  def nap() -> str:
      "Sleeps in C."
      time.sleep(4)
      return "awake"

  @offer
  def rest() -> str:
      "Sleeps for a moment."
      time.sleep(0.3)
      return "awake"

  @offer
  def end() -> str:
      "Ends Python."
      os.kill(os.getpid(), signal.SIGKILL)
      return "never"
  """

  setup %{tmp_dir: folder} do
    File.write!(Path.join(folder, "chaos_tools.py"), @tools)
    {:ok, options: [python_path: [folder], preload: ["chaos_tools"]]}
  end

  # Calls a tool once.
  defp call_tool(pool, tool, question, options) do
    model = fn request ->
      if ScriptedModel.text(request) =~ "awake" do
        ScriptedModel.written(
          next_thought: "done",
          next_tool_name: "finish",
          next_tool_args: %{},
          reasoning: "r",
          answer: "awake"
        )
      else
        ScriptedModel.written(next_thought: "t", next_tool_name: tool, next_tool_args: %{})
      end
    end

    options = [pool: pool, lm: {:elixir, model}, tools: [tool]] ++ options
    Python.execute_module("dspy.ReAct", @signature, question, options)
  end

  test "bursts of slow tools past their deadline cost no session and few lines of the log", %{
    options: options
  } do
    pool = start_pool!(options)
    {:ok, _program} = Python.create_program(@signature, pool: pool, session_id: "kept")
    first = os_pid(pool)
    bursts = rounds(1) |> div(20) |> max(1)

    log =
      capture_log(fn ->
        for _burst <- 1..bursts do
          calls =
            for number <- 1..40 do
              Task.async(fn -> call_tool(pool, "nap", "Q#{number}", timeout: 2_000) end)
            end

          for result <- Task.await_many(calls, 120_000) do
            assert {:error, %Error{kind: kind}} = result
            assert kind in [:timeout, :overloaded]
          end

          eventually(fn -> threads(pool) == {0, 0} end)
        end
      end)

    assert os_pid(pool) == first
    assert {:ok, [_program]} = Python.list_programs("kept", pool: pool)
    # A busy machine may take a burst apart.
    assert length(String.split(log, "stuck: ")) - 1 <= 5 * bursts
  end

  test "thousands of calls of one caller do not keep another from its turn", %{options: options} do
    pool = start_pool!([max_threads: 1] ++ options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    count = rounds(300, 10)

    # The tasks of this process are one caller.
    many =
      for number <- 1..count do
        Task.async(fn -> call_tool(pool, "rest", "Q#{number}", timeout: 600_000) end)
      end

    eventually(fn -> elem(threads(pool), 1) > 50 end)
    {:ok, _prediction} = call_tool(pool, "rest", "other", caller: "other", timeout: 600_000)
    left = Enum.count(many, &Process.alive?(&1.pid))
    Enum.each(many, &Task.shutdown(&1, :brutal_kill))
    # Behind all of them, it would have been the last.
    assert left > count / 10, "#{left} of #{count} calls were left"
    eventually(fn -> threads(pool) == {0, 0} end)
  end

  test "a call that kills Python is retried once, and the others get their answers", %{
    options: options
  } do
    pool = start_pool!(options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    # The first round makes what is made only once.
    capture_log(fn -> deadly_round(pool, 0) end)
    before = settled_counts()
    rounds = rounds(1) |> div(20) |> max(1)
    capture_log(fn -> for round <- 1..rounds, do: deadly_round(pool, round) end)
    eventually(fn -> nothing_left?(before) end)
  end

  defp deadly_round(pool, round) do
    others =
      for number <- 1..8 do
        Task.async(fn -> until_answered(pool, "other #{round} #{number}") end)
      end

    assert {2, %Error{kind: :worker_died, details: %{"sent" => true, "asked" => true}}} =
             retried(fn -> call_tool(pool, "end", "deadly #{round}", []) end)

    for result <- Task.await_many(others, 120_000), do: assert({:ok, _prediction} = result)
  end

  # Makes a call until it has another result than an error that is retryable; returns how often it was made.
  defp retried(call, attempt \\ 1) do
    case call.() do
      {:error, %Error{retryable: true}} when attempt < 20 -> retried(call, attempt + 1)
      {:error, error} -> {attempt, error}
    end
  end

  # Calls that are in flight at two deaths by chance are made again too: they do no harm.
  defp until_answered(pool, question) do
    case call_tool(pool, "rest", question, timeout: 60_000) do
      {:error, %Error{kind: :worker_died}} -> until_answered(pool, question)
      result -> result
    end
  end

  defp threads(pool) do
    {:ok, %{"threads" => threads}} = Python.metrics(pool: pool)
    {threads["busy"], threads["queued"]}
  end
end
