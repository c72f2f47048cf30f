defmodule DSPex.Python.Pool.SettingsTest do
  # The names of all pools are seen by other tests.
  use ExUnit.Case, async: false

  import DSPex.TestPython

  alias DSPex.Python.Pool.Settings
  alias DSPex.Python.Port.Names

  @pool :settings_test

  # A call that went on without would have no redactor, and no budget.
  test "of a pool that is being made are waited for" do
    test = self()

    {supervisor, monitor} =
      spawn_monitor(fn ->
        send(test, Names.register(:pool, @pool))
        receive do: (:made -> Names.set_value(:pool, @pool, %{strict: true}))
        receive do: (:end -> :ok)
      end)

    assert_receive true
    reader = Task.async(fn -> Settings.of(@pool) end)
    assert Task.yield(reader, 30) == nil
    send(supervisor, :made)
    assert Task.await(reader) == %{strict: true}

    send(supervisor, :end)
    assert_receive {:DOWN, ^monitor, :process, ^supervisor, :normal}
    # The registry of names removes them a little later.
    eventually(fn -> Settings.find(@pool) == nil end)
    assert Settings.of(@pool) == Settings.none()
  end

  test "of a pool whose making fails are none" do
    test = self()

    supervisor =
      spawn(fn ->
        send(test, Names.register(:pool, @pool))
        Process.sleep(:infinity)
      end)

    assert_receive true
    reader = Task.async(fn -> Settings.of(@pool) end)
    assert Task.yield(reader, 30) == nil
    Process.exit(supervisor, :kill)
    assert Task.await(reader) == Settings.none()
  end
end
