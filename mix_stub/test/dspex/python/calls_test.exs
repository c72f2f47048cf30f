defmodule DSPex.Python.CallsTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.{Calls, Protocol}

  defp from, do: {self(), make_ref()}

  test "gives ids in order, and none that is in use when they begin again" do
    {1, calls} = Calls.add_call(%Calls{}, from(), :infinity, :infinity)
    {2, calls} = Calls.add_call(calls, from(), :infinity, :infinity)
    {_call, calls} = Calls.pop(calls, 2)

    {id, calls} =
      Calls.add_call(%{calls | last_id: Protocol.max_id() - 1}, from(), :infinity, :infinity)

    assert id == Protocol.max_id()
    # 1 still waits.
    assert {2, calls} = Calls.add_startup(calls, :ping)
    assert Calls.count(calls) == 3
  end

  test "sends a message at the deadline of a call, and none after it was taken out" do
    soon = System.monotonic_time(:millisecond) + 20
    {kept, calls} = Calls.add_call(%Calls{}, from(), 20, soon)
    {taken, calls} = Calls.add_call(calls, from(), 20, soon)
    {%Calls.Call{timeout: 20}, calls} = Calls.pop(calls, taken)
    assert_receive {:deadline, ^kept}, 1_000
    refute_received {:deadline, ^taken}
    assert {nil, ^calls} = Calls.pop(calls, taken)
  end

  test "forgets the call of a process that is gone" do
    caller = spawn(fn -> Process.sleep(:infinity) end)
    {_id, calls} = Calls.add_call(%Calls{}, {caller, make_ref()}, :infinity, :infinity)
    Process.exit(caller, :kill)
    assert_receive {:DOWN, monitor, :process, ^caller, :killed}
    assert {{1, %Calls.Call{}}, calls} = Calls.pop_monitored(calls, monitor)
    assert {Calls.count(calls), calls.id_of_monitor} == {0, %{}}
    assert Calls.pop_monitored(calls, make_ref()) == {nil, calls}
  end

  test "takes all calls out" do
    {_id, calls} = Calls.add_startup(%Calls{}, :ping)
    {id, calls} = Calls.add_call(calls, from(), :infinity, :infinity)
    calls = Calls.sent(calls, id)
    assert {popped, none} = Calls.pop_all(calls)
    assert Enum.map(popped, & &1.sent?) == [true, true]
    assert Calls.count(none) == 0
  end
end
