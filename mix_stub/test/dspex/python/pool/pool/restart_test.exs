defmodule DSPex.Python.Pool.Pool.RestartTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.{Error, Pool, ScriptedModel}
  alias DSPex.Python.Port.SendQueue

  describe "Python that ends" do
    test "answers all callers at once, and is started again" do
      pool = start_pool!(heartbeat: false)
      {:ok, _pong} = Python.ping(nil, pool: pool)
      # Stopped first, so that the calls are pending when it is killed.
      signal(pool, "STOP")
      calls = for _ <- 1..50, do: Task.async(fn -> Python.ping(nil, pool: pool) end)
      eventually(fn -> waiting(pool) == 50 end)
      first = os_pid(pool)

      {results, duration_ms} =
        timed(fn ->
          signal(pool, "KILL")
          Task.await_many(calls, 60_000)
        end)

      for result <- results do
        assert {:error, %Error{kind: :worker_died, retryable: true, message: message}} = result

        assert message ==
                 "python was killed by signal 9 while the call was being made; it is started again"
      end

      # A call waits for 30 s otherwise.
      assert duration_ms < 15_000
      assert {:ok, %{"payload" => :again}} = Python.ping(:again, pool: pool)
      assert os_pid(pool) != first

      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)

      assert prediction.model =~ "embedded"
    end

    test "loses no call that is made during the restart" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)

      for _ <- 1..3 do
        signal(pool, "KILL")

        # Some calls reach the owner that is about to end, some find no owner, some its successor.
        calls = for number <- 1..20, do: Task.async(fn -> Python.ping(number, pool: pool) end)

        for result <- Task.await_many(calls, 30_000) do
          assert match?({:ok, _pong}, result) or
                   match?({:error, %Error{kind: :worker_died}}, result)
        end

        assert {:ok, _pong} = Python.ping(nil, pool: pool)
      end
    end

    test "at any moment leaves no caller without an answer, and leaves nothing behind" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)
      killing = :atomics.new(1, [])

      callers =
        for number <- 1..100 do
          Task.async(fn -> call_while_killing(pool, number, killing) end)
        end

      capture_log(fn ->
        for _ <- 1..5 do
          eventually(fn -> ready?(pool) and waiting(pool) > 0 end)
          signal(pool, "KILL")
          eventually(fn -> not ready?(pool) end)
        end

        :atomics.put(killing, 1, 1)
        results = callers |> Task.await_many(30_000) |> List.flatten()

        for result <- results do
          assert match?({:ok, _pong}, result) or
                   match?({:error, %Error{kind: :worker_died, retryable: true}}, result)
        end

        assert Enum.any?(results, &match?({:error, _error}, &1))
      end)

      eventually(fn -> waiting(pool) == 0 end)
      assert Process.info(client(pool), :monitors) == {:monitors, []}
      assert SendQueue.count(:sys.get_state(client(pool)).send_queue) == 0
    end
  end

  describe "the model that was configured last" do
    test "is the model of a Python that is started again, and of the next ones" do
      # configure_lm was lost with its Python, and the pool answered with the model of its options again.
      pool = start_pool!(model: :embedded)

      model =
        start_supervised!(
          {ScriptedModel, fn _request -> ScriptedModel.written(answer: "configured") end}
        )

      assert answer(pool) != "configured"
      {:ok, _model} = Python.configure_lm(ScriptedModel.lm(model), %{}, pool: pool)

      for _ <- 1..2 do
        restart(pool)
        assert answer(pool) == "configured"
        assert Pool.PoolModel.state(pool) == {:ok, :configured}
      end

      {:ok, _model} = Python.configure_lm(:embedded, %{}, pool: pool)
      restart(pool)
      assert answer(pool) != "configured"
    end

    test "is the model of a pool that had none, and shows no key" do
      pool = start_pool!(model: nil)
      {:ok, _pong} = Python.ping(nil, pool: pool)

      config = [
        model: "m",
        api_base: "http://127.0.0.1:9",
        api_key: "sk-secret-1",
        num_retries: 0
      ]

      {:ok, _model} = Python.configure_lm(:openai, config, pool: pool)
      restart(pool)
      {:ok, pong} = Python.ping(nil, pool: pool)
      assert pong["model"]["model"] == "openai/m"

      for kind <- [:pool, :workers],
          [{supervisor, _value}] = Registry.lookup(DSPex.Python.Registry, {kind, pool}),
          {_id, pid, _type, _modules} <- Supervisor.which_children(supervisor),
          read <- [&:sys.get_state/1, &:sys.get_status/1] do
        refute inspect(read.(pid), limit: :infinity, structs: false) =~ "secret"
      end
    end

    test "does not change because a configuration failed, and not for a session" do
      pool = start_pool!(model: :embedded)
      {:ok, _pong} = Python.ping(nil, pool: pool)

      model =
        start_supervised!(
          {ScriptedModel, fn _request -> ScriptedModel.written(answer: "other") end}
        )

      {:error, _error} = Python.configure_lm(:openai, [modl: "m"], pool: pool)

      {:ok, _model} =
        Python.configure_lm(ScriptedModel.lm(model), %{}, pool: pool, session_id: "s")

      restart(pool)
      {:ok, pong} = Python.ping(nil, pool: pool)
      assert pong["model"]["provider"] == "embedded"
    end

    defp answer(pool),
      do:
        Python.execute_module!("dspy.Predict", "question -> answer", "Why?", pool: pool)[:answer]

    defp restart(pool) do
      client = client(pool)

      capture_log(fn ->
        signal(pool, "KILL")
        eventually(fn -> client(pool) != client end)
        {:ok, _pong} = Python.ping(nil, pool: pool)
      end)
    end
  end

  describe "Python that is killed again and again" do
    test "and has no calls is logged without a word about calls" do
      pool = start_pool!()
      {:ok, %{"pid" => python}} = Python.ping(nil, pool: pool)
      [{_number, owner, _known}] = DSPex.Python.Port.Names.workers(pool)
      reference = Process.monitor(owner)

      log =
        capture_log(fn ->
          signal_process(python, "KILL")
          assert_receive {:DOWN, ^reference, :process, _owner, _reason}, 10_000
        end)

      # It said `calls in flight are answered with an error: 0`; other tests may log theirs meanwhile.
      assert log =~
               ~r/python of pool #{inspect(pool)} was killed by signal 9; it is started again$/m
    end

    test "is started again each time, and its pool never disappears" do
      # The pool's supervisor once gave up after ten restarts within 10 s: callers got the error that there is no
      # such pool.
      # With a template process twelve restarts take less than these 10 s.
      pool = start_pool!(template: true)
      [{supervisor, _value}] = Registry.lookup(DSPex.Python.Registry, {:pool, pool})

      log =
        capture_log(fn ->
          for number <- 1..12 do
            pong = fn -> with {:error, _error} <- Python.ping(number, pool: pool), do: nil end
            {:ok, %{"pid" => worker}} = eventually(pong)
            signal_process(worker, "KILL")
          end

          assert eventually(fn -> match?({:ok, _pong}, Python.ping(:last, pool: pool)) end)
        end)

      assert [{^supervisor, _value}] = Registry.lookup(DSPex.Python.Registry, {:pool, pool})
      assert log =~ "python of pool #{inspect(pool)} was killed by signal 9; it is started again"
      # The log has one line, not a crash report; other tests may log theirs meanwhile.
      of_pool = for entry <- String.split(log, "[error]"), entry =~ inspect(pool), do: entry
      refute Enum.any?(of_pool, &(&1 =~ "State:"))
    end
  end

  defp call_while_killing(pool, payload, killing) do
    fn -> Python.ping(payload, pool: pool) end
    |> Stream.repeatedly()
    |> Enum.take_while(fn _result -> :atomics.get(killing, 1) == 0 end)
  end

  # Tells whether Python has answered once.
  defp ready?(pool) do
    case Registry.lookup(DSPex.Python.Registry, {:slot, {pool, 1}}) do
      [{client, _state}] -> :sys.get_state(client).phase == :ready
      [] -> false
    end
  catch
    :exit, _client_has_just_ended -> false
  end
end
