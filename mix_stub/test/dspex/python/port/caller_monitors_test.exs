defmodule DSPex.Python.Port.CallerMonitorsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Port.{CallerMonitors, PendingCalls}

  defp waiting_process(calls) do
    test = self()

    caller =
      spawn(fn ->
        send(test, {:id, PendingCalls.add(calls, make_ref())})
        Process.sleep(:infinity)
      end)

    assert_receive {:id, id}
    {caller, id}
  end

  test "returns the call of a caller that has ended" do
    calls = PendingCalls.new()
    {caller, id} = waiting_process(calls)
    monitors = CallerMonitors.look(%CallerMonitors{}, calls)
    assert_receive :monitor_callers
    Process.exit(caller, :kill)
    assert_receive {:DOWN, monitor, :process, ^caller, :killed}

    assert {^id, %CallerMonitors{monitors: by_id, ids: by_monitor}} =
             CallerMonitors.pop(monitors, monitor)

    assert {by_id, by_monitor} == {%{}, %{}}
    assert {nil, _monitors} = CallerMonitors.pop(monitors, make_ref())
  end

  test "notices a caller that had ended before it was monitored" do
    calls = PendingCalls.new()
    {caller, _id} = waiting_process(calls)
    Process.exit(caller, :kill)
    CallerMonitors.look(%CallerMonitors{}, calls)
    assert_receive {:DOWN, _monitor, :process, ^caller, _reason}
  end

  test "forgets calls that are answered or taken back" do
    calls = PendingCalls.new()
    {_caller, answered} = waiting_process(calls)
    {_caller, taken_back} = waiting_process(calls)
    monitors = CallerMonitors.look(%CallerMonitors{}, calls)
    assert map_size(monitors.monitors) == 2
    PendingCalls.take(calls, answered)
    monitors = CallerMonitors.forget(monitors, answered)
    PendingCalls.take(calls, taken_back)
    monitors = CallerMonitors.look(monitors, calls)
    assert {monitors.monitors, monitors.ids} == {%{}, %{}}
  end

  test "stops looking when there has been no call for a while, until the next call" do
    calls = PendingCalls.new()
    assert PendingCalls.request_monitoring(calls)

    monitors =
      Enum.reduce(1..51, %CallerMonitors{}, fn _look, monitors ->
        CallerMonitors.look(monitors, calls)
      end)

    assert monitors.idle_looks == 0
    assert PendingCalls.request_monitoring(calls)
  end
end
