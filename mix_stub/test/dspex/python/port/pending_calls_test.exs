defmodule DSPex.Python.Port.PendingCallsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Port.{PendingCall, PendingCalls}
  alias DSPex.Python.Wire.Protocol

  test "returns ids in order, and skips ids in use when they begin again" do
    calls = PendingCalls.new()
    assert PendingCalls.add(calls, make_ref()) == 1
    assert PendingCalls.add(calls, make_ref()) == 2
    PendingCalls.take(calls, 2)
    :atomics.put(calls.counters, 1, Protocol.max_id() - 1)
    assert PendingCalls.add(calls, make_ref()) == Protocol.max_id()
    # The call 1 is still pending.
    assert PendingCalls.add(calls, {:startup, :ping}) == 2
    assert PendingCalls.count(calls) == 3
  end

  test "returns a call to one process only" do
    calls = PendingCalls.new()
    tag = make_ref()
    id = PendingCalls.add(calls, tag)
    assert PendingCalls.pending?(calls, id)

    taken =
      1..50
      |> Enum.map(fn _taker -> Task.async(fn -> PendingCalls.take(calls, id) end) end)
      |> Task.await_many(60_000)

    assert Enum.filter(taken, & &1) == [
             %PendingCall{id: id, tag: tag, caller: self(), sent?: true}
           ]

    refute PendingCalls.pending?(calls, id)
  end

  test "takes all calls out, and notes which were sent" do
    calls = PendingCalls.new()
    first = PendingCalls.add(calls, make_ref())
    second = PendingCalls.add(calls, make_ref())
    PendingCalls.unsent(calls, first)
    PendingCalls.unsent(calls, second)
    PendingCalls.sent(calls, second)

    assert calls |> PendingCalls.take_all() |> Enum.map(& &1.sent?) |> Enum.sort() == [
             false,
             true
           ]

    assert PendingCalls.count(calls) == 0
  end

  test "requests the monitoring of callers once" do
    calls = PendingCalls.new()

    assert [PendingCalls.request_monitoring(calls), PendingCalls.request_monitoring(calls)] == [
             true,
             false
           ]

    PendingCalls.stop_monitoring(calls)
    assert PendingCalls.request_monitoring(calls)
  end

  test "is gone for callers when the process that made the table has ended" do
    calls = Task.await(Task.async(&PendingCalls.new/0))
    assert PendingCalls.add(calls, make_ref()) == :gone
    assert PendingCalls.take(calls, 1) == :gone
    assert PendingCalls.unsent(calls, 1) == :gone
  end
end
