defmodule DSPex.Python.Call.OverviewTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython, except: [workers: 1]
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Call.Overview

  @qa "question -> answer"

  defp waiting_model do
    test = self()

    {:elixir,
     fn _request ->
       send(test, {:asked, self()})

       receive do
         :answer -> "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
       end
     end}
  end

  test "pools, workers and running calls are shown" do
    pool = start_pool!(size: 2, standby: 1)
    assert Python.await_pools([pool]) == :ok
    {:ok, _session} = Python.open_session("s-1", [], pool: pool)

    call =
      Task.async(fn ->
        options = [pool: pool, lm: waiting_model(), request_id: "r\e[31m-1"]
        Python.execute_module("dspy.Predict", @qa, "Why?", options)
      end)

    # The model of the task's call tells the task.
    eventually(fn -> running(pool) != [] end)

    eventually(fn ->
      states = for worker <- workers(pool), do: worker.state
      Enum.sort(states) == [:ready, :ready, :spare]
    end)

    status = Python.status([pool])
    assert [%{name: ^pool, queued: 0, workers: workers}] = status.pools
    assert Enum.sum(for worker <- workers, do: worker.in_flight) == 1
    assert Enum.sum(for worker <- workers, do: worker.sessions) == 1
    assert Enum.all?(workers, &(&1.memory > 10_000_000 and is_integer(&1.pid)))

    text = to_string(status)
    assert inspect(status) == text
    assert text =~ ~r/POOL +WORKER +PID +STATE +CALLS/
    assert text =~ inspect(pool)
    assert text =~ "spare"

    lines = Overview.calls(status, 10)
    assert [title, line] = lines
    assert title =~ ~r/AGE +STAGE +OPERATION/
    assert line =~ ~r/s +model +execute_module/
    # A terminal gets no control character from a caller.
    assert line =~ "r?[31m-1"
    assert [_title, "… and 1 more"] = Overview.calls(status, 0)

    Task.shutdown(call, :brutal_kill)
    eventually(fn -> running(pool) == [] end)
  end

  defp workers(pool), do: hd(Python.status([pool]).pools).workers
  defp running(pool), do: Enum.flat_map(workers(pool), & &1.calls)

  test "a worker that does not answer, or has failed to start, is shown as that" do
    pool = start_pool!(heartbeat: false)
    assert Python.await_pools([pool]) == :ok
    signal(pool, "STOP")
    assert [%{state: :silent, memory: nil}] = workers(pool)
    signal(pool, "CONT")

    capture_log(fn ->
      broken = start_pool!(python: "/nowhere/python")
      # It was `starting`, whatever the log said.
      assert {:error, _error} = Python.await_pools([broken])
      assert [%{state: :failed, in_flight: 0}] = workers(broken)
      assert to_string(Python.status([broken])) =~ "start failed, tried again"
    end)
  end

  test "without pools there is nothing to show" do
    assert to_string(Python.status([])) == "no pools"
    # A pool that ends while it is looked at.
    assert to_string(Overview.take([:no_such_pool])) == "no pools"
  end

  test "rates are those between two looks, also when counters begin again" do
    look = fn at, tokens, cost, errors ->
      spent = %{tokens: tokens, cost: cost, errors: errors}
      %Overview{at: at, pools: [%{name: :a, queued: 0, workers: [], spent: spent}]}
    end

    assert Overview.rates(look.(0, 1, 1.0, 1), nil) == nil
    before = look.(1_000, 100, 1.0, 5)

    assert %{tokens: 50.0, cost: cost, errors: 30.0} =
             Overview.rates(look.(3_000, 200, 1.5, 6), before)

    assert_in_delta cost, 900.0, 0.001
    assert %{tokens: 5.0} = Overview.rates(look.(3_000, 10, 0.0, 0), before)
    # A pool that is new has spent nothing yet.
    assert %{tokens: tokens} = Overview.rates(look.(3_000, 10, 0.0, 0), %{before | pools: []})
    assert tokens == 0.0
    # Between two Pythons a pool has a row too.
    assert [_titles, row] = Overview.table(before)
    assert row =~ "down"
  end

  test "sizes are readable" do
    assert Enum.map([nil, 61_400_000, 2_350_000_000], &Overview.bytes/1) == [
             nil,
             "61 MB",
             "2.4 GB"
           ]
  end
end
