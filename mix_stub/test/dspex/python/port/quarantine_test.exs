defmodule DSPex.Python.Port.QuarantineTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Python}
  alias DSPex.Python.Error
  alias DSPex.Python.Port.Quarantine

  @qa "question -> answer"
  @error Error.new(:worker_died, "python ended")

  # Makes a call whose model does not answer, kills Python when `ready?` holds, and returns the call's error.
  defp killed(pool, ready?, make_call, python \\ nil) do
    call = Task.async(make_call)
    eventually(ready?)
    signal_process(python || os_pid(pool), "KILL")
    assert {:error, %Error{kind: :worker_died} = error} = Task.await(call, 60_000)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    error
  end

  # Blocks, and tells the test that it was asked.
  defp waiting_model(test) do
    fn _request ->
      send(test, :asked)
      Process.sleep(:infinity)
    end
  end

  defp asked? do
    receive do
      :asked -> true
    after
      0 -> false
    end
  end

  defp ask(pool, question, options),
    do: Python.execute_module("dspy.Predict", @qa, question, [pool: pool] ++ options)

  test "the error says that a model of Elixir, a model of a provider, or none had been asked" do
    pool = start_pool!(heartbeat: false)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    model = waiting_model(self())
    url = ModelServer.start!()

    capture_log(fn ->
      error = killed(pool, &asked?/0, fn -> ask(pool, "Q", lm: {:elixir, model}) end)
      assert %{"sent" => true, "asked" => true} = error.details

      slow = ModelServer.model(url, "delay-60000")
      requested? = fn -> ModelServer.keys(url) != [] end
      error = killed(pool, requested?, fn -> ask(pool, "Q2", lm: slow) end)
      assert %{"sent" => true, "asked" => true} = error.details

      # A stopped Python has the call in its pipe, and asks nobody.
      signal(pool, "STOP")
      error = killed(pool, fn -> sent(pool) == 1 end, fn -> ask(pool, "Q3", lm: slow) end)
      assert %{"sent" => true, "asked" => false} = error.details
      assert error.retryable
    end)
  end

  test "a call is not to blame for a Python that was stopped twice" do
    pool = start_pool!()
    {:ok, _pong} = Python.ping(nil, pool: pool)
    test = self()
    # It was not retryable, as after two crashes.
    capture_log(fn ->
      for _ <- 1..2 do
        call = Task.async(fn -> ask(pool, "Q", lm: {:elixir, waiting_model(test)}) end)
        eventually(&asked?/0)
        signal(pool, "STOP")
        assert {:error, %Error{kind: :worker_died} = error} = Task.await(call, 60_000)
        assert error.message =~ "was stopped by a signal"
        assert error.retryable
        {:ok, _pong} = Python.ping(nil, pool: pool)
      end
    end)
  end

  @tag :tmp_dir
  test "the error says that a call was not sent", %{tmp_dir: folder} do
    python = script!(folder, "#!/bin/sh\nexec sleep 60\n")

    capture_log(fn ->
      pool = start_pool!(python: python, start_timeout: 500)
      assert {:error, %Error{kind: :port_closed} = error} = ask(pool, "Q", [])
      assert %{"sent" => false, "asked" => false} = error.details
      assert error.retryable
    end)
  end

  test "a call that was in flight at two deaths in a row is not retryable, and the log names it" do
    # With a template process five restarts take little time.
    pool = start_pool!(template: true)
    test = self()

    # Each attempt has other functions, in another process.
    attempt = fn question, options ->
      {:ok, %{"pid" => python}} = Python.ping(nil, pool: pool)
      options = [lm: {:elixir, waiting_model(test)}] ++ options
      killed(pool, &asked?/0, fn -> ask(pool, question, options) end, python)
    end

    log =
      capture_log(fn ->
        assert attempt.("secret question", []).retryable
        error = attempt.("secret question", [])
        refute error.retryable
        refute error.details["retryable"]
        assert error.message =~ "in flight at two deaths of python in a row"
      end)

    assert log =~
             "died twice in a row during one call, which is not retryable: execute_module of \"dspy.Predict\""

    refute log =~ "secret question"

    log =
      capture_log(fn ->
        assert attempt.("another", request_id: "r-7").retryable
        refute attempt.("the same request, worded otherwise", request_id: "r-7").retryable
      end)

    assert log =~ "execute_module of \"dspy.Predict\", request_id \"r-7\""
    assert capture_log(fn -> assert attempt.("a third", []).retryable end) =~ "killed by signal 9"
  end

  describe "judges" do
    setup do
      {:ok, table: Quarantine.new()}
    end

    defp judged(table, operation, args) do
      death = Quarantine.died(table)
      Quarantine.judge(table, death, {:pool, operation, args}, @error).retryable
    end

    @module ["dspy.Predict", @qa, %{question: "Q"}]

    test "the same call in any form, whatever differs from attempt to attempt", %{table: table} do
      for {operation, first, second} <- [
            {:execute_module, @module ++ [%{caller: "<0.1.0>", tools: [%{callback: "a"}]}],
             @module ++ [%{caller: "<0.2.0>", tools: [%{callback: "b"}]}]},
            # The trace of each call, and the process that makes it: of observed calls none was the same.
            {:execute_module,
             @module ++ [%{traceparent: "a", trace: true, budgets: [%{callback: "a"}]}],
             @module ++ [%{"traceparent" => "b", caller_context: "b", called_at_us: 1}]},
            {:stream_module, [self(), make_ref() | @module], [self(), make_ref() | @module]},
            {:handle_json, ["execute_module", ~s(["m", {"request_id": "a"}])],
             ["execute_module", ~s(["m", {"request_id": "b"}])]},
            {:execute_program, ["s", "p", %{a: 1}, %{request_id: "r"}],
             ["s", "p", %{a: 2}, %{request_id: "r"}]},
            {:handle_json, ["execute_module", "no JSON"], ["execute_module", "no JSON"]}
          ] do
        assert capture_log(fn ->
                 assert judged(table, operation, first)
                 refute judged(table, operation, second)
               end) =~ "is not retryable"
      end
    end

    test "other calls, and those that had an answer or a death without them in between", %{
      table: table
    } do
      assert judged(table, :execute_module, @module)
      assert judged(table, :execute_module, ["dspy.Predict", @qa, %{question: "other"}])
      assert judged(table, :execute_module, @module)
      Quarantine.answered(table, :execute_module, @module)
      assert judged(table, :execute_module, @module)

      # Inputs of the names of options.
      for name <- [:caller, :context, :request_id, "budgets"], value <- ["one", "two"] do
        args = ["dspy.Predict", "#{name} -> answer", %{name => value}, %{}]
        assert judged(table, :execute_module, args)
      end
    end

    test "the same call of several callers at one death", %{table: table} do
      death = Quarantine.died(table)

      for _ <- 1..3 do
        assert Quarantine.judge(table, death, {:pool, :ping, [1]}, @error).retryable
      end
    end

    # Two workers that were killed at once, each with a part of a batch of equal items, were two deaths in a row of it.
    test "the same call that was in flight in two workers", %{table: table} do
      call = {:pool, :execute_module, @module}
      began_at = System.monotonic_time()
      first = Quarantine.died(table)
      assert Quarantine.judge(table, first, call, @error, began_at).retryable
      second = Quarantine.died(table)
      assert Quarantine.judge(table, second, call, @error, began_at).retryable

      assert capture_log(fn -> refute judged(table, :execute_module, @module) end) =~
               "is not retryable"
    end

    test "with a bounded table and few lines in the log", %{table: table} do
      log =
        capture_log(fn ->
          for _death <- 1..20 do
            death = Quarantine.died(table)

            for number <- 1..50 do
              args = @module ++ [%{request_id: "r-#{number}"}]
              Quarantine.judge(table, death, {:pool, :execute_module, args}, @error)
            end
          end
        end)

      assert :ets.info(table, :size) <= 2 * 50 * 2 + 3
      assert length(String.split(log, "is not retryable")) - 1 == 19 * 5
    end
  end
end
