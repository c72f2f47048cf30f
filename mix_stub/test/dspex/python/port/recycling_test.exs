defmodule DSPex.Python.Port.RecyclingTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Python}
  alias DSPex.Python.{Error, ScriptedModel}

  @moduletag :tmp_dir
  @qa "question -> answer"

  # A tool that blocks in C, so that no exception ends it; one that comes just before does not either.
  @application """
  import os
  from erlport_bridge.programs.tools import offer

  read, write = os.pipe()

  @offer
  def stock(article: str) -> str:
      "How many pieces of an article are in stock."
      while True:
          try:
              open(os.path.join(os.path.dirname(__file__), "begun"), "w").close()
              os.read(read, 1)
          except BaseException:
              pass
  """

  setup %{tmp_dir: folder} do
    File.write!(Path.join(folder, "shop.py"), @application)

    {:ok,
     options: [
       python_path: [folder],
       preload: ["shop"],
       max_threads: 1,
       max_stuck: 0,
       lost_after: 1_200
     ],
     url: ModelServer.start!()}
  end

  # Leaves a thread stuck, which the pool does not allow.
  defp block(pool, folder) do
    call =
      Task.async(fn ->
        Python.execute_module("dspy.ReAct", @qa, "How many bolts are in stock?",
          pool: pool,
          lm: :embedded,
          tools: ["stock"],
          request_id: "r-1"
        )
      end)

    eventually(fn -> File.exists?(Path.join(folder, "begun")) end)
    assert Python.cancel("r-1", pool: pool) == {:ok, 1}
    assert {:error, %Error{kind: :cancelled}} = Task.await(call, 30_000)
  end

  defp ask(pool, question, options),
    do: Python.execute_module("dspy.Predict", @qa, question, [pool: pool] ++ options)

  defp begin_slow_call(pool, url, options \\ []) do
    options = [lm: ModelServer.model(url, "delay-60000"), timeout: 60_000] ++ options
    call = Task.async(fn -> ask(pool, "Q", options) end)
    eventually(fn -> in_flight(pool, "execute_module") == 1 end)
    call
  end

  defp in_flight(pool, operation) do
    {:ok, %{"operations" => operations}} = Python.metrics(pool: pool)
    get_in(operations, [operation, "in_flight"]) || 0
  end

  defp ping_until(pool, done?, results \\ []) do
    results = [Python.ping(nil, pool: pool, timeout: 30_000) | results]
    if :atomics.get(done?, 1) == 1, do: results, else: ping_until(pool, done?, results)
  end

  @tag timeout: 180_000
  test "a Python with too many stuck threads is replaced, and no call is lost or delayed",
       %{options: options, tmp_dir: folder} do
    pool = start_pool!(options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    first = os_pid(pool)
    done? = :atomics.new(1, [])
    may_answer? = :atomics.new(1, [])

    slow = fn number ->
      [lm: {:elixir, fn _request -> answer_when(may_answer?, number) end}, timeout: 60_000]
    end

    log =
      capture_log(fn ->
        running = for number <- 1..10, do: Task.async(fn -> ask(pool, "Q", slow.(number)) end)
        eventually(fn -> in_flight(pool, "execute_module") == 10 end)
        callers = for _ <- 1..4, do: Task.async(fn -> ping_until(pool, done?) end)
        block(pool, folder)
        eventually(fn -> os_pid(pool) != first end)
        # The first Python still works on its calls.
        assert alive?(first)
        assert {:ok, _prediction} = ask(pool, "What is ETF?", lm: :embedded)
        :atomics.put(may_answer?, 1, 1)

        for {result, number} <- running |> Task.await_many(60_000) |> Enum.with_index(1) do
          assert {:ok, prediction} = result
          assert prediction[:answer] == "answer #{number}"
        end

        eventually(fn -> not alive?(first) end)
        :atomics.put(done?, 1, 1)
        pings = callers |> Task.await_many(60_000) |> List.flatten()
        assert Enum.all?(pings, &match?({:ok, _pong}, &1))
      end)

    eventually(fn -> owners(pool) == 1 end)

    assert [_before, _after] =
             String.split(log, "a new python is being started for pool #{inspect(pool)}: ")

    assert log =~ "python of pool #{inspect(pool)} is replaced by a new one"

    assert log =~ "1 of its threads are stuck for more than 1.2 s, and none is free"

    assert log =~
             "a thread is stuck: shop.stock for request 'r-1' goes on although it was interrupted"

    assert {:ok, %{"threads" => %{"stuck" => 0}}} = Python.metrics(pool: pool)
  end

  test "a Python with many slow threads is not replaced, and keeps its sessions", %{
    options: options,
    tmp_dir: folder
  } do
    # Slow in C, so that each of them is interrupted at its deadline and goes on for a while.
    File.write!(Path.join(folder, "slow.py"), """
    import time
    from erlport_bridge.programs.tools import offer

    @offer
    def nap() -> str:
        "Sleeps."
        time.sleep(4)
        return "awake"
    """)

    options = Keyword.drop(options, [:max_threads, :max_stuck, :lost_after])
    pool = start_pool!([preload: ["slow"]] ++ Keyword.delete(options, :preload))
    {:ok, program} = Python.create_program(@qa, pool: pool, session_id: "kept")
    first = os_pid(pool)

    # The logs of tests that run at the same time are captured too.
    log =
      capture_log([metadata: [:pool]], fn ->
        calls =
          for number <- 1..33 do
            Task.async(fn ->
              Python.execute_module("dspy.ReAct", @qa, "Q#{number}",
                pool: pool,
                lm: {:elixir, fn _request -> nap() end},
                tools: ["nap"],
                timeout: 2_000
              )
            end)
          end

        for result <- Task.await_many(calls, 60_000) do
          assert {:error, %Error{kind: :timeout}} = result
        end

        eventually(fn -> threads(pool)["stuck"] > 0 end)
        eventually(fn -> threads(pool)["stuck"] == 0 and threads(pool)["busy"] == 0 end)
      end)

    assert os_pid(pool) == first
    assert {:ok, [%{"id" => id}]} = Python.list_programs("kept", pool: pool)
    assert id == program.id
    refute log =~ "for pool #{inspect(pool)}:"
    refute log =~ "pool #{inspect(pool)} is replaced by"
    of_pool = for line <- String.split(log, "\n"), line =~ "pool=#{pool} ", do: line
    assert Enum.count(of_pool, &(&1 =~ ~r/threads? (is|are) stuck: /)) in 1..4
  end

  defp answer_when(may_answer?, number) do
    if :atomics.get(may_answer?, 1) == 1 do
      ScriptedModel.written(answer: "answer #{number}")
    else
      Process.sleep(10)
      answer_when(may_answer?, number)
    end
  end

  defp nap do
    ScriptedModel.written(next_thought: "t", next_tool_name: "nap", next_tool_args: %{})
  end

  defp threads(pool) do
    {:ok, %{"threads" => threads}} = Python.metrics(pool: pool)
    threads
  end

  test "calls that take longer than the time for draining return an error", %{
    options: options,
    url: url,
    tmp_dir: folder
  } do
    pool = start_pool!([drain_timeout: 100] ++ options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    first = os_pid(pool)

    capture_log(fn ->
      slow = begin_slow_call(pool, url)
      block(pool, folder)

      assert {:error, %Error{kind: :port_closed, retryable: true, message: message}} =
               Task.await(slow, 30_000)

      assert message ==
               "python was replaced while the call was being made; it was given 100 ms to end"
    end)

    eventually(fn -> not alive?(first) end)
    assert {:ok, _pong} = Python.ping(nil, pool: pool)
  end

  test "a stream continues in the replaced Python, and a call there can be cancelled",
       %{options: options, url: url, tmp_dir: folder} do
    pool = start_pool!(options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    first = os_pid(pool)
    question = Enum.map_join(1..60, " ", &"word#{&1}")

    capture_log(fn ->
      call = begin_slow_call(pool, url, request_id: "r-2")

      # With a buffer of two events, the model waits for the reader.
      stream =
        Python.stream("dspy.Predict", @qa, question,
          pool: pool,
          lm: ModelServer.model(url, "slow-20"),
          buffer: 2,
          timeout: 60_000
        )

      elements =
        stream
        |> Stream.with_index()
        |> Enum.map(fn {element, index} ->
          if index == 3 do
            block(pool, folder)
            eventually(fn -> os_pid(pool) != first end)
          end

          element
        end)

      assert {:prediction, prediction} = List.last(elements)
      assert for({:chunk, "answer", text} <- elements, into: "", do: text) == prediction[:answer]

      assert alive?(first)
      assert Python.cancel("r-2", pool: pool) == {:ok, 1}
      assert {:error, %Error{kind: :cancelled}} = Task.await(call, 30_000)
    end)

    eventually(fn -> not alive?(first) end)
  end

  test "the new Python has the model that was configured last", %{
    options: options,
    tmp_dir: folder
  } do
    pool = start_pool!([model: nil] ++ options)
    {:ok, _model} = Python.configure_lm(:embedded, [], pool: pool)
    first = os_pid(pool)

    capture_log(fn ->
      block(pool, folder)
      eventually(fn -> os_pid(pool) != first end)
    end)

    assert {:ok, prediction} = ask(pool, "What is ETF?", [])
    assert prediction.model =~ "embedded"
  end

  test "a Python that ends while it is draining leaves no caller without an answer", %{
    options: options,
    url: url,
    tmp_dir: folder
  } do
    pool = start_pool!(options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    first = os_pid(pool)

    capture_log(fn ->
      slow = begin_slow_call(pool, url)
      block(pool, folder)
      eventually(fn -> os_pid(pool) != first end)
      :ok = signal_process(first, "KILL")

      assert {:error, %Error{kind: :worker_died, retryable: true, message: message}} =
               Task.await(slow, 30_000)

      assert message == "python was killed by signal 9 while it was being replaced"
    end)

    assert {:ok, _pong} = Python.ping(nil, pool: pool)
    eventually(fn -> owners(pool) == 1 end)
  end

  test "a Python that ends before its successor is ready is started again, and one Python remains",
       %{options: options, tmp_dir: folder} do
    pool = start_pool!(options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    first = client(pool)

    capture_log(fn ->
      block(pool, folder)
      eventually(fn -> owners(pool) == 2 end)
      if client(pool) == first, do: Process.exit(first, :kill)
      eventually(fn -> client(pool) != first and owners(pool) == 1 end)
    end)

    for _ <- 1..20, do: assert({:ok, _pong} = Python.ping(nil, pool: pool))
  end

  describe "a worker is replaced" do
    # A tool that takes memory and keeps it.
    @leaking """
    from erlport_bridge.programs.tools import offer

    kept = []

    @offer
    def leak() -> str:
        "Leaks."
        kept.append(b"x" * 60_000_000)
        return "done"
    """

    for {kind, options, reason} <- [
          {"memory", [max_memory: {:mb, 260}], "max_memory is 260 MiB"},
          {"calls", [max_calls: 12], "max_calls is 12"},
          {"age", [max_age: 4_000], "max_age is 4 s"}
        ],
        standby <- [0, 1] do
      @tag timeout: 180_000
      test "for its #{kind} with standby #{standby}, and no call fails", %{tmp_dir: folder} do
        File.write!(Path.join(folder, "leaking.py"), @leaking)

        pool =
          start_pool!(
            [python_path: [folder], preload: ["leaking"], standby: unquote(standby)] ++
              unquote(Macro.escape(options))
          )

        {:ok, %{"worker" => first}} = Python.ping(nil, pool: pool)
        leak = fn _request -> leak_step() end

        log =
          capture_log(fn ->
            results = call_until_replaced(pool, first, leak, [])
            for result <- results, do: assert({:ok, _prediction} = result)
            eventually(fn -> owners(pool) == 1 + unquote(standby) end)
          end)

        assert log =~ unquote(reason)
        {:ok, %{"pool" => report}} = Python.metrics(pool: pool)
        assert report["recycled"][unquote(kind)] >= 1
        assert report["died"] == 0
      end
    end

    defp call_until_replaced(pool, first, leak, results) do
      {:ok, %{"worker" => worker}} = Python.ping(nil, pool: pool)

      if worker == first do
        result =
          Python.execute_module("dspy.ReAct", @qa, "Q",
            pool: pool,
            lm: {:elixir, leak},
            tools: ["leak"],
            max_iters: 1,
            timeout: 60_000
          )

        call_until_replaced(pool, first, leak, [result | results])
      else
        results
      end
    end

    defp leak_step do
      ScriptedModel.written(
        next_thought: "t",
        next_tool_name: "leak",
        next_tool_args: %{},
        reasoning: "r",
        answer: "a"
      )
    end
  end
end
