defmodule DSPex.Chaos.PortTest do
  use ExUnit.Case, async: false

  import DSPex.Chaos
  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.{Callbacks, Error, ScriptedModel}
  alias DSPex.Python.Port.{PendingCalls, SendQueue}

  @moduletag timeout: :infinity
  @signature "question -> answer"

  setup do
    pool = start_pool!(heartbeat: false)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    {:ok, pool: pool}
  end

  test "calls with a long timeout survive a stopped Python, the others have a timeout", %{
    pool: pool
  } do
    # Five seconds in `make chaos`.
    still_ms = if System.get_env("CHAOS_ROUNDS"), do: 5_000, else: 1_000
    signal(pool, "STOP")
    patient = for number <- 1..50, do: Task.async(fn -> Python.ping(number, pool: pool) end)

    impatient =
      for _ <- 1..50 do
        Task.async(fn -> timed(fn -> Python.ping(nil, pool: pool, timeout: 200) end) end)
      end

    for {result, ms} <- Task.await_many(impatient) do
      assert {:error, %Error{kind: :timeout}} = result
      assert ms < 10_000
    end

    Process.sleep(still_ms)
    signal(pool, "CONT")

    for {result, number} <- Enum.with_index(Task.await_many(patient, 30_000), 1) do
      assert {:ok, %{"payload" => ^number}} = result
    end
  end

  test "a Python that does not read blocks only its own callers", %{pool: pool} do
    client = client(pool)
    signal(pool, "STOP")
    payload = :binary.copy("x", 1_048_576)

    callers =
      for _ <- 1..64 do
        Task.async(fn -> timed(fn -> Python.ping(payload, pool: pool, timeout: 2_000) end) end)
      end

    eventually(fn -> PendingCalls.count(:sys.get_state(client).pending_calls) > 0 end)
    # The owner of the port answers at once although the pipe is full.
    assert PendingCalls.count(:sys.get_state(client).pending_calls) > 0

    results = Task.await_many(callers, 30_000)

    for {result, ms} <- results do
      assert {:error, %Error{kind: :timeout, details: %{"stage" => stage}}} = result
      assert stage in ["send", "python"]
      assert ms < 15_000
    end

    assert Enum.any?(results, &match?({{:error, %{details: %{"stage" => "send"}}}, _ms}, &1))
    signal(pool, "CONT")
    assert {:ok, %{"payload" => ^payload}} = Python.ping(payload, pool: pool)
    assert client(pool) == client
    eventually(fn -> SendQueue.count(:sys.get_state(client).send_queue) == 0 end)
  end

  test "ten thousand unknown messages disturb no call", %{pool: pool} do
    port = :sys.get_state(client(pool)).port
    message = :erlang.term_to_binary({:M, {:stray, self(), ["whatever", %{1 => 2.5}]}})

    strays =
      Task.async(fn ->
        for _ <- 1..10_000, do: Port.command(port, message)
      end)

    calls =
      for caller <- 1..16 do
        Task.async(fn ->
          for n <- 1..50, do: {{caller, n}, Python.ping({caller, n}, pool: pool)}
        end)
      end

    for {payload, result} <- calls |> Task.await_many(60_000) |> List.flatten() do
      assert {:ok, %{"payload" => ^payload}} = result
    end

    Task.await(strays, 60_000)
    assert {:ok, _pong} = Python.ping(nil, pool: pool)
  end

  test "streams that are halted at their first piece leave nothing behind", %{pool: pool} do
    halt = fn ->
      model = fn _ -> Stream.cycle(["[[ ## answer ## ]]\n", "word ", "after ", "word "]) end

      assert [{:chunk, "answer", _text}] =
               "dspy.Predict"
               |> Python.stream(@signature, "?", pool: pool, lm: {:elixir, model})
               |> Stream.filter(&match?({:chunk, _field, _text}, &1))
               |> Enum.take(1)
    end

    for _ <- 1..10, do: halt.()
    eventually(fn -> Callbacks.count().running == 0 and waiting(pool) == 0 end)
    before = settled_counts()
    for _ <- 1..rounds(100, 5), do: halt.()

    eventually(fn -> nothing_left?(before) end)

    assert {:ok, %{"threads" => _threads} = metrics} = Python.metrics(pool: pool)
    assert metrics["operations"]["stream_module"]["in_flight"] == 0
  end

  test "a tool may return 64 MiB, and may kill its own call", %{pool: pool} do
    test = self()
    large = :binary.copy("x", 64 * 1_048_576)

    tools = [
      %{name: "large", description: "Gives much", function: fn %{} -> large end},
      %{
        name: "deadly",
        description: "Kills",
        function: fn %{} ->
          [caller] = Process.get(:"$callers")
          send(test, {:killing, caller})
          Process.exit(caller, :kill)
          Process.sleep(:infinity)
        end
      }
    ]

    ask = fn tool ->
      model = fn request ->
        if ScriptedModel.text(request) =~ "Observation" or
             byte_size(ScriptedModel.text(request)) > 1_000_000 do
          ScriptedModel.written(
            next_thought: "done",
            next_tool_name: "finish",
            next_tool_args: %{},
            reasoning: "r",
            answer: "done"
          )
        else
          ScriptedModel.written(next_thought: "t", next_tool_name: tool, next_tool_args: %{})
        end
      end

      Python.execute_module("dspy.ReAct", @signature, "?",
        pool: pool,
        lm: {:elixir, model},
        tools: tools,
        max_iters: 2,
        timeout: 60_000
      )
    end

    # Whatever DSPy does with 64 MiB, the call returns an answer.
    assert {status, _answer} = ask.("large")
    assert status in [:ok, :error]
    caller = spawn(fn -> ask.("deadly") end)
    assert_receive {:killing, ^caller}, 30_000
    eventually(fn -> waiting(pool) == 0 and Callbacks.count() == %{registered: 0, running: 0} end)
    assert {:ok, _pong} = Python.ping(nil, pool: pool)
  end

  test "thousands of calls, many of which fail, do not increase Python's memory", %{pool: pool} do
    for _ <- 1..2, do: mixed_calls(pool, 500)
    memory = for _ <- 1..3, do: mixed_calls(pool, rounds(500, 35))
    # A leak grows in each round; the memory of the allocator grows only sometimes.
    [first, second, third] = memory
    grown = Enum.filter([second - first, third - second], &(&1 > 2 * 1_048_576))
    assert length(grown) < 2, "memory after each third: #{inspect(memory)}"
  end

  defp mixed_calls(pool, count) do
    1..count
    |> Task.async_stream(&mixed_call(rem(&1, 6), pool), max_concurrency: 16, timeout: 60_000)
    |> Stream.run()

    {:ok, metrics} = Python.metrics(pool: pool)
    metrics["memory_bytes"]
  end

  defp mixed_call(0, pool), do: {:ok, _pong} = Python.ping(%{a: [1, 2.5, "x"]}, pool: pool)

  defp mixed_call(1, pool) do
    {:ok, _prediction} =
      Python.execute_module("dspy.ChainOfThought", @signature, "?",
        pool: pool,
        lm: {:elixir, fn _ -> ScriptedModel.written(reasoning: "r", answer: "a") end}
      )
  end

  defp mixed_call(2, pool) do
    {:error, %Error{}} =
      Python.execute_module("dspy.Predict", @signature, "?",
        pool: pool,
        lm: {:elixir, fn _ -> {:error, {:auth, "no"}} end}
      )
  end

  defp mixed_call(3, pool),
    do:
      {:error, %Error{kind: :module_not_found}} =
        Python.execute_module("dspy.Predcit", @signature, "?", pool: pool)

  defp mixed_call(4, pool) do
    {:error, %Error{kind: kind, message: message}} =
      Python.execute_module("dspy.Predict", @signature, "?",
        pool: pool,
        timeout: 20,
        lm: {:elixir, fn _ -> Process.sleep(:infinity) end}
      )

    # Refused at once if it would not begin within this time.
    true = kind == :timeout or (kind == :overloaded and message =~ "would not begin in time")
  end

  defp mixed_call(5, pool) do
    {:error, %Error{}} =
      Python.execute_module("dspy.Predict", @signature, "?",
        pool: pool,
        lm: {:elixir, fn _ -> "not in the form" end}
      )
  end
end
