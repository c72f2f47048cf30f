defmodule DSPex.Python.CallsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.{Calls, Protocol}
  alias DSPex.Python.Calls.Call

  test "gives ids in order, and none that is in use when they begin again" do
    calls = Calls.new()
    assert Calls.add(calls, make_ref()) == 1
    assert Calls.add(calls, make_ref()) == 2
    Calls.take(calls, 2)
    :atomics.put(calls.counters, 1, Protocol.max_id() - 1)
    assert Calls.add(calls, make_ref()) == Protocol.max_id()
    # 1 still waits.
    assert Calls.add(calls, {:startup, :ping}) == 2
    assert Calls.count(calls) == 3
  end

  test "gives a call to one taker only" do
    calls = Calls.new()
    tag = make_ref()
    id = Calls.add(calls, tag)
    assert Calls.waiting?(calls, id)

    taken =
      1..50
      |> Enum.map(fn _taker -> Task.async(fn -> Calls.take(calls, id) end) end)
      |> Task.await_many()

    assert Enum.filter(taken, & &1) == [%Call{tag: tag, caller: self(), sent?: true}]
    refute Calls.waiting?(calls, id)
  end

  test "takes all calls out, and knows which were sent" do
    calls = Calls.new()
    first = Calls.add(calls, make_ref())
    second = Calls.add(calls, make_ref())
    Calls.unsent(calls, first)
    Calls.unsent(calls, second)
    Calls.sent(calls, second)
    assert calls |> Calls.take_all() |> Enum.map(& &1.sent?) |> Enum.sort() == [false, true]
    assert Calls.count(calls) == 0
  end

  test "asks for a watch of the callers once" do
    calls = Calls.new()
    assert [Calls.watch(calls), Calls.watch(calls)] == [true, false]
    Calls.unwatch(calls)
    assert Calls.watch(calls)
  end
end
