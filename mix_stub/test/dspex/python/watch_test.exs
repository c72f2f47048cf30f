defmodule DSPex.Python.WatchTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.{Calls, Watch}

  defp waiting_process(calls) do
    test = self()

    caller =
      spawn(fn ->
        send(test, {:id, Calls.add(calls, make_ref())})
        Process.sleep(:infinity)
      end)

    assert_receive {:id, id}
    {caller, id}
  end

  test "tells which call was a process's that has ended" do
    calls = Calls.new()
    {caller, id} = waiting_process(calls)
    watch = Watch.look(%Watch{}, calls)
    assert_receive :watch_callers
    Process.exit(caller, :kill)
    assert_receive {:DOWN, monitor, :process, ^caller, :killed}
    assert {^id, %Watch{monitors: monitors, ids: ids}} = Watch.pop(watch, monitor)
    assert {monitors, ids} == {%{}, %{}}
    assert {nil, _watch} = Watch.pop(watch, make_ref())
  end

  test "notices a process that had ended before it was looked for" do
    calls = Calls.new()
    {caller, _id} = waiting_process(calls)
    Process.exit(caller, :kill)
    Watch.look(%Watch{}, calls)
    assert_receive {:DOWN, _monitor, :process, ^caller, _reason}
  end

  test "forgets calls that are answered, by whom ever" do
    calls = Calls.new()
    {_caller, answered} = waiting_process(calls)
    {_caller, taken_back} = waiting_process(calls)
    watch = Watch.look(%Watch{}, calls)
    assert map_size(watch.monitors) == 2
    Calls.take(calls, answered)
    watch = Watch.forget(watch, answered)
    Calls.take(calls, taken_back)
    watch = Watch.look(watch, calls)
    assert {watch.monitors, watch.ids} == {%{}, %{}}
  end

  test "looks no more when there has been no call for a while, until one comes" do
    calls = Calls.new()
    assert Calls.watch(calls)
    watch = Enum.reduce(1..51, %Watch{}, fn _look, watch -> Watch.look(watch, calls) end)
    assert watch.idle_looks == 0
    assert Calls.watch(calls)
  end
end
