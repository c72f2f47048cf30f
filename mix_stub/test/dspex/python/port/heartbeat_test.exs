defmodule DSPex.Python.Port.HeartbeatTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Connection, Heartbeat, Names, PoolOptions, ProcessState}

  describe "a silent Python" do
    test "is killed and started again, and its callers get the cause" do
      pool = start_pool!(heartbeat: [interval: 50, limit: 300, stopped: false])
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

  describe "a Python whose process is stopped" do
    for {way, options} <- [directly: [], "by a template process": [template: true]] do
      test "and that was started #{way} is killed after a second" do
        pool = start_pool!(unquote(options))
        {:ok, %{"pid" => pid}} = Python.ping(nil, pool: pool)

        log =
          capture_log(fn ->
            signal_process(pid, "STOP")
            {result, ms} = timed(fn -> Python.ping(nil, pool: pool, timeout: 60_000) end)
            # The pings would find it after 30 s.
            assert ms > 950 and ms < 20_000
            assert {:error, %Error{kind: :worker_died, retryable: true} = error} = result

            assert error.message ==
                     "python was stopped by a signal for 1000 ms and was killed while the call was being made; it is started again"

            eventually(fn -> not alive?(pid) end)
            assert {:ok, _pong} = Python.ping(nil, pool: pool)
          end)

        assert log =~ "was stopped by a signal for 1000 ms and was killed"
      end
    end

    test "gets no calls meanwhile, before one has run out, and gets them again when it continues" do
      pool = start_pool!(size: 2, standby: 0, heartbeat: [stopped: 600_000])
      assert Python.await_pools([pool]) == :ok
      ask = fn -> Python.execute_module("dspy.Predict", "a -> b", "?", pool: pool) end
      # An idle worker has the fewest calls in flight, so it would get all.
      {:ok, %{meta: %{"worker" => number, "pid" => pid}}} = ask.()
      signal_process(pid, "STOP")
      {_owner, %{connection: connection}} = Names.lookup(:worker, {pool, number})
      eventually(fn -> Connection.silent?(connection) end)

      for _ <- 1..5 do
        assert {:ok, %{meta: %{"worker" => other}}} = ask.()
        assert other != number
      end

      signal_process(pid, "CONT")
      eventually(fn -> match?({:ok, %{meta: %{"worker" => ^number}}}, ask.()) end)
    end

    test "is left alone with stopped: false" do
      pool = start_pool!(heartbeat: [stopped: false])
      {:ok, _pong} = Python.ping(nil, pool: pool)
      signal(pool, "STOP")
      assert {:error, %Error{kind: :timeout}} = Python.ping(nil, pool: pool, timeout: 2_000)
      signal(pool, "CONT")
      assert {:ok, _pong} = Python.ping(nil, pool: pool)
    end

    @tag :tmp_dir
    test "is found by its pings if the program of the pool only starts Python", %{tmp_dir: folder} do
      python = script!(folder, "#!/bin/sh\n#{interpreter()} \"$@\"\n")
      pool = start_pool!(python: python, heartbeat: [interval: 100, limit: 3_000])
      {:ok, %{"pid" => pid}} = Python.ping(nil, pool: pool)
      assert pid != os_pid(pool)
      signal_process(pid, "STOP")

      log =
        capture_log(fn ->
          assert {:error, %Error{kind: :worker_died}} = Python.ping(nil, pool: pool)
          eventually(fn -> not alive?(pid) end)
        end)

      assert log =~ "was silent for 3000 ms"
    end
  end

  test "a Python that continues before the limit loses no call" do
    pool = start_pool!(heartbeat: [interval: 50, limit: 60_000, stopped: 60_000])
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
    heartbeat = Heartbeat.start(%{interval: 1, limit: 3, stopped: false}, nil)
    assert {:ask, heartbeat} = Heartbeat.tick(heartbeat)
    assert {:ask, heartbeat} = Heartbeat.tick(heartbeat)
    assert {:ask, silent} = Heartbeat.tick(heartbeat)
    assert {:kill, {:silent, 3}} = Heartbeat.tick(silent)
    assert {:ask, %{unanswered: 1}} = Heartbeat.tick(Heartbeat.answered(silent))
    # One message at the start, and one for each ping.
    for _ <- 1..5, do: assert_receive(:heartbeat)
    refute_received :heartbeat
  end

  test "counts looks at a stopped process, and begins again when it has continued" do
    {:ok, pid} = sleeping()
    process = ProcessState.open(pid)
    heartbeat = Heartbeat.start(%{interval: 60_000, limit: 60_000, stopped: 500}, process)
    assert {:runs, heartbeat} = Heartbeat.look(heartbeat, false)
    signal_process(pid, "STOP")
    eventually(fn -> ProcessState.stopped_after(process) end)
    assert {:is_stopped, heartbeat} = Heartbeat.look(heartbeat, false)
    assert {:is_stopped, stopped} = Heartbeat.look(heartbeat, false)
    assert {:kill, {:stopped, 500}} = Heartbeat.look(stopped, false)
    signal_process(pid, "CONT")
    eventually(fn -> ProcessState.stopped_after(process) == nil end)
    assert {:continues, heartbeat} = Heartbeat.look(stopped, false)
    assert {:runs, heartbeat} = Heartbeat.look(heartbeat, false)
    # One message at the start, and one for each look.
    for _ <- 1..6, do: assert_receive(:look_at_process, 20_000)
    # Less often while there is nothing to do.
    {_message, busy_ms} = timed(fn -> look_again(heartbeat, false) end)
    {_message, idle_ms} = timed(fn -> look_again(heartbeat, true) end)
    assert busy_ms >= 250 and idle_ms >= 1_000
    refute_received :look_at_process
  end

  test "a process that goes on between the looks is not stopped for as long" do
    # It computes, so that its CPU time tells that it went on.
    port =
      Port.open({:spawn_executable, "/bin/sh"}, [:binary, args: ["-c", "while :; do :; done"]])

    {:os_pid, pid} = Port.info(port, :os_pid)
    on_exit(fn -> System.cmd("/bin/sh", ["-c", "kill -KILL #{pid}"], stderr_to_stdout: true) end)
    process = ProcessState.open(pid)
    heartbeat = Heartbeat.start(%{interval: 60_000, limit: 60_000, stopped: 500}, process)

    for _round <- 1..6, reduce: heartbeat do
      heartbeat ->
        signal_process(pid, "STOP")
        eventually(fn -> ProcessState.stopped_after(process) end)
        assert {:is_stopped, heartbeat} = Heartbeat.look(heartbeat, false)
        cpu_time = heartbeat.stopped_after
        signal_process(pid, "CONT")
        eventually(fn -> cpu_time(pid) > cpu_time end)
        heartbeat
    end
  end

  # The CPU time of a process, stopped or not, in clock ticks.
  defp cpu_time(pid) do
    numbers =
      File.read!("/proc/#{pid}/stat") |> String.split(")") |> List.last() |> String.split()

    numbers |> Enum.slice(11, 2) |> Enum.map(&String.to_integer/1) |> Enum.sum()
  end

  defp look_again(heartbeat, idle?) do
    assert {:runs, _heartbeat} = Heartbeat.look(heartbeat, idle?)
    assert_receive :look_at_process, 20_000
  end

  test "the option takes false, or an interval, a limit of at least the interval, and a time for stopped processes" do
    assert PoolOptions.new!(name: :p).heartbeat ==
             %{interval: 5_000, limit: 30_000, stopped: 1_000}

    assert PoolOptions.new!(name: :p, heartbeat: false).heartbeat == false

    assert PoolOptions.new!(name: :p, heartbeat: [limit: 9_000]).heartbeat ==
             %{interval: 5_000, limit: 9_000, stopped: 1_000}

    assert PoolOptions.new!(name: :p, heartbeat: [stopped: false]).heartbeat ==
             %{interval: 5_000, limit: 30_000, stopped: false}

    for wrong <-
          [true, 5, [interval: 0], [limit: 4_999], [limit: :infinity], [pause: 1], [1]] ++
            [[stopped: 0], [stopped: true], [stopped: nil], [stopped: 4_294_967_296]] do
      # The tests of PoolOptions have the sentences.
      assert_raise ArgumentError, ~r/for the option :heartbeat of pool :p$/, fn ->
        PoolOptions.new!(name: :p, heartbeat: wrong)
      end
    end
  end

  # A process that ends with the test.
  defp sleeping do
    sleep = Port.open({:spawn_executable, System.find_executable("sleep")}, args: ["600"])
    {:os_pid, pid} = Port.info(sleep, :os_pid)
    on_exit(fn -> signal_process(pid, "KILL") end)
    {:ok, pid}
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
