defmodule DSPex.Python.Port.HeartbeatTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Heartbeat, PoolOptions}

  describe "a silent Python" do
    test "that was stopped is killed and started again, and its callers get the cause" do
      pool = start_pool!(heartbeat: [interval: 50, limit: 300])
      # A busy machine may have a Python that is silent for so long by itself.
      eventually(fn -> match?({:ok, _pong}, Python.ping(nil, pool: pool)) end)

      {first, log} =
        with_log(fn ->
          # The owner counts no heartbeat until all calls are pending.
          owner = client(pool)
          :ok = :sys.suspend(owner)
          first = os_pid(pool)
          signal_process(first, "STOP")
          calls = for _ <- 1..20, do: Task.async(fn -> Python.ping(nil, pool: pool) end)
          eventually(fn -> waiting(pool) == 20 end)
          :ok = :sys.resume(owner)

          for result <- Task.await_many(calls, 30_000) do
            assert {:error, %Error{kind: :worker_died, retryable: true, message: message}} =
                     result

            assert message ==
                     "python was silent for 300 ms and was killed while the call was being made; it is started again"
          end

          eventually(fn ->
            match?({:ok, %{"payload" => :again}}, Python.ping(:again, pool: pool))
          end)

          first
        end)

      assert log =~ "python of pool #{inspect(pool)} was silent for 300 ms and was killed"
      assert os_pid(pool) != first
      eventually(fn -> not alive?(first) end)
    end

    @tag :tmp_dir
    test "in which C code holds the GIL is killed and started again", %{tmp_dir: folder} do
      go = Path.join(folder, "go")
      File.write!(Path.join(folder, "holds_the_gil.py"), holds_the_gil_after(go))

      pool =
        start_pool!(
          heartbeat: [interval: 50, limit: 2_000],
          python_path: [folder],
          preload: ["holds_the_gil"]
        )

      {:ok, _pong} = Python.ping(nil, pool: pool)
      first = os_pid(pool)

      log =
        capture_log(fn ->
          File.write!(go, "")
          eventually(fn -> not alive?(first) end)
          File.rm!(go)
          # The next Python may have started before the file was gone.
          eventually(fn -> match?({:ok, _pong}, Python.ping(nil, pool: pool)) end)
        end)

      assert log =~ "python of pool #{inspect(pool)} was silent for 2000 ms and was killed"
    end
  end

  test "a Python that continues before the limit loses no call" do
    pool = start_pool!(heartbeat: [interval: 50, limit: 60_000])
    {:ok, _pong} = Python.ping(nil, pool: pool)
    first = os_pid(pool)
    signal(pool, "STOP")
    calls = for number <- 1..50, do: Task.async(fn -> Python.ping(number, pool: pool) end)
    eventually(fn -> :sys.get_state(client(pool)).heartbeat.unanswered > 10 end)
    signal(pool, "CONT")

    for {result, number} <- calls |> Task.await_many(30_000) |> Enum.with_index(1) do
      assert {:ok, %{"payload" => ^number}} = result
    end

    eventually(fn -> :sys.get_state(client(pool)).heartbeat.unanswered <= 1 end)
    assert os_pid(pool) == first
  end

  test "a Python that is busy in all its threads answers pings" do
    pool = start_pool!(heartbeat: [interval: 20, limit: 2_000])
    question = "What is #{Enum.map_join(1..200, " + ", &to_string/1)}?"
    client = client(pool)

    calls =
      for _ <- 1..100 do
        Task.async(fn ->
          Python.execute_module("dspy.ChainOfThought", "question -> answer", question, pool: pool)
        end)
      end

    for result <- Task.await_many(calls, 60_000), do: assert({:ok, _prediction} = result)
    assert client(pool) == client
  end

  test "a pool without heartbeats leaves a silent Python alone" do
    pool = start_pool!(heartbeat: false)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    assert :sys.get_state(client(pool)).heartbeat == nil
  end

  test "counts unanswered pings up to the limit" do
    heartbeat = Heartbeat.start(%{interval: 1, limit: 3})
    assert {:ask, heartbeat} = Heartbeat.tick(heartbeat)
    assert {:ask, heartbeat} = Heartbeat.tick(heartbeat)
    assert {:ask, silent} = Heartbeat.tick(heartbeat)
    assert {:silent, 3} = Heartbeat.tick(silent)
    assert {:ask, %{unanswered: 1}} = Heartbeat.tick(Heartbeat.answered(silent))
    # One message at the start, and one for each ping.
    for _ <- 1..5, do: assert_receive(:heartbeat)
    refute_received :heartbeat
  end

  test "the option takes false, or an interval and a limit of at least the interval" do
    assert PoolOptions.new!(name: :p).heartbeat == %{interval: 5_000, limit: 30_000}
    assert PoolOptions.new!(name: :p, heartbeat: false).heartbeat == false

    assert PoolOptions.new!(name: :p, heartbeat: [limit: 9_000]).heartbeat ==
             %{interval: 5_000, limit: 9_000}

    for wrong <- [true, 5, [interval: 0], [limit: 4_999], [limit: :infinity], [pause: 1], [1]] do
      message =
        "expected false or [interval: ms, limit: ms] with a limit of at least the interval for " <>
          "the option :heartbeat of pool :p, got #{inspect(wrong)}"

      assert_raise ArgumentError, message, fn -> PoolOptions.new!(name: :p, heartbeat: wrong) end
    end
  end

  defp holds_the_gil_after(file) do
    """
    import os, threading, time

    def hold():
        while not os.path.exists(#{inspect(file)}):
            time.sleep(0.01)
        sum(range(10**13))

    threading.Thread(target=hold, daemon=True).start()
    """
  end
end
