defmodule DSPex.Python.Pool.Pool.RestartTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Error
  alias DSPex.Python.Port.SendQueue

  describe "Python that ends" do
    test "answers all callers at once, and is started again" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)
      # Stopped first, so that the calls are pending when it is killed.
      signal(pool, "STOP")
      calls = for _ <- 1..50, do: Task.async(fn -> Python.ping(nil, pool: pool) end)
      eventually(fn -> waiting(pool) == 50 end)
      first = os_pid(pool)

      {results, duration_ms} =
        timed(fn ->
          signal(pool, "KILL")
          Task.await_many(calls)
        end)

      for result <- results do
        assert {:error, %Error{kind: :port_closed, retryable: true, message: message}} = result

        assert message ==
                 "python was killed by signal 9 while the call was being made; it is started again"
      end

      assert duration_ms < 4_000
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
                   match?({:error, %Error{kind: :port_closed}}, result)
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
                   match?({:error, %Error{kind: :port_closed, retryable: true}}, result)
        end

        assert Enum.any?(results, &match?({:error, _error}, &1))
      end)

      eventually(fn -> waiting(pool) == 0 end)
      assert Process.info(client(pool), :monitors) == {:monitors, []}
      assert SendQueue.count(:sys.get_state(client(pool)).send_queue) == 0
    end
  end

  describe "Python that is killed again and again" do
    test "is started again each time, and its pool never disappears" do
      # The pool's supervisor once gave up after ten restarts within 10 s: callers got the error that there is no
      # such pool.
      pool = start_pool!()
      [{supervisor, _value}] = Registry.lookup(DSPex.Python.Registry, {:pool, pool})

      log =
        capture_log(fn ->
          for number <- 1..12 do
            assert eventually(fn -> match?({:ok, _pong}, Python.ping(number, pool: pool)) end)
            signal(pool, "KILL")
          end

          assert eventually(fn -> match?({:ok, _pong}, Python.ping(:last, pool: pool)) end)
        end)

      assert [{^supervisor, _value}] = Registry.lookup(DSPex.Python.Registry, {:pool, pool})
      assert log =~ "python of pool #{inspect(pool)} was killed by signal 9; it is started again"
      # The log has one line, not a crash report.
      refute log =~ "State:"
    end
  end

  defp call_while_killing(pool, payload, killing) do
    fn -> Python.ping(payload, pool: pool) end
    |> Stream.repeatedly()
    |> Enum.take_while(fn _result -> :atomics.get(killing, 1) == 0 end)
  end

  # Tells whether Python has answered once.
  defp ready?(pool) do
    case Registry.lookup(DSPex.Python.Registry, {:port, pool}) do
      [{client, _state}] -> :sys.get_state(client).phase == :ready
      [] -> false
    end
  catch
    :exit, _client_has_just_ended -> false
  end
end
