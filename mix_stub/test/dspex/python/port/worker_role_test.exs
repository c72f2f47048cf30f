defmodule DSPex.Python.Port.WorkerRoleTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Port.{Names, Owner, Slots}

  defp start_ready!(options) do
    pool = start_pool!(options)
    assert Python.await_pools([pool]) == :ok
    {pool, eventually(fn -> Slots.ready_spare(pool) end)}
  end

  # `nil` while one owner takes the place of another.
  defp owner_of(pool, slot),
    do: with({owner, _value} <- Names.lookup(:slot, {pool, slot}), do: owner)

  defp python_of(owner) do
    {:connected, ^owner} = Port.info(:sys.get_state(owner).port, :connected)
    {:os_pid, os_pid} = Port.info(:sys.get_state(owner).port, :os_pid)
    os_pid
  end

  # Kills the Python of a suspended owner, and waits until the owner has the message about it.
  defp kill_unnoticed(owner) do
    os_pid = python_of(owner)
    :ok = :sys.suspend(owner)
    signal_process(os_pid, "KILL")
    eventually(fn -> received?(owner, &match?({_port, {:exit_status, _status}}, &1)) end)
  end

  defp received?(process, matches?) do
    {:messages, messages} = Process.info(process, :messages)
    Enum.any?(messages, matches?)
  end

  # A spare is asked to replace a worker that has died, of which its owner does not know yet.
  for {title, asked?} <- [{"asks for it", true}, {"does not know of it", false}] do
    test "a spare takes the slot of a worker that dies just when it #{title}, and stays as it is" do
      {pool, spare} = start_ready!(size: 2)
      python = python_of(spare)
      owner = owner_of(pool, 1)
      if unquote(asked?), do: assert({:ok, _successor} = Owner.successor(owner))

      capture_log(fn ->
        kill_unnoticed(owner)
        replacing = Task.async(fn -> GenServer.call(spare, {:replace, owner}) end)
        # The spare asks the owner for its slot.
        eventually(fn -> received?(owner, &match?({:"$gen_call", _from, :drain}, &1)) end)
        :ok = :sys.resume(owner)
        assert Task.await(replacing, 60_000) == :gone
        assert eventually(fn -> owner_of(pool, 1) == spare end)
      end)

      assert python_of(spare) == python
      assert {:ok, _pong} = Python.ping(nil, pool: pool)
      # The next spare is started behind it.
      next = eventually(fn -> Slots.ready_spare(pool) end)
      assert next not in [spare, owner]
      assert owners(pool) == 3
    end
  end

  test "a spare that wants to be replaced is started again" do
    {pool, spare} = start_ready!(size: 1, standby: 1, template: true)
    %{port: port, role: %{worker: number}} = :sys.get_state(spare)

    # What Python sends when it is too old.
    frame = :erlang.term_to_binary({:R, "age", "it has run for long"})
    send(spare, {port, {:data, frame}})

    # Until its owner has ended it is the spare that is found.
    next = eventually(fn -> with ^spare <- Slots.ready_spare(pool), do: nil end)
    assert :sys.get_state(next).role.worker > number
    assert owners(pool) == 2
  end

  test "a spare that has just taken a slot replaces no other worker" do
    {pool, spare} = start_ready!(size: 2)
    capture_log(fn -> kill_noticed(pool, 1, spare) end)
    owner = owner_of(pool, 2)
    assert GenServer.call(spare, {:replace, owner}) == :not_ready
    assert GenServer.call(spare, {:take_slot, 2}) == :not_ready
    assert owner_of(pool, 2) == owner
  end

  defp kill_noticed(pool, slot, spare) do
    signal_process(python_of(owner_of(pool, slot)), "KILL")
    eventually(fn -> owner_of(pool, slot) == spare end)
  end
end
