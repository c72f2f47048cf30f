defmodule DSPex.ApplicationTest do
  # Other tests must not see the module :telemetry, which this test loads and removes.
  use ExUnit.Case, async: false

  test "starts the pools that the configuration names, with their model" do
    assert [general: _options] = Application.fetch_env!(:dspex, DSPex.Python)[:pools]
    assert {:ok, :configured} = DSPex.Python.Pool.PoolModel.state(:general)
    assert {:ok, %{"model" => %{"provider" => "embedded"}}} = DSPex.Python.ping()
  end

  # It started without its pools.
  test "does not start with a misspelt key in its configuration" do
    configured = Application.fetch_env!(:dspex, DSPex.Python)
    on_exit(fn -> Application.put_env(:dspex, DSPex.Python, configured) end)
    Application.put_env(:dspex, DSPex.Python, pool: [general: []])

    assert_raise ArgumentError,
                 "unknown key :pool in config :dspex, DSPex.Python (did you mean :pools?)",
                 fn -> DSPex.Application.start(:normal, []) end
  end

  test "prints an example when IEx starts" do
    # The printed example must be Elixir that works.
    script = Path.expand("../../.iex.exs", __DIR__)
    printed = ExUnit.CaptureIO.capture_io(fn -> Code.eval_file(script) end)

    assert "try: " <> code = String.trim(printed)
    assert {{:ok, %DSPex.Prediction{}}, _bindings} = Code.eval_string(code)
  end

  test "prints no example when IEx starts without the pool's Python" do
    script = Path.expand("../../.iex.exs", __DIR__)
    configured = Application.fetch_env!(:dspex, DSPex.Python)
    on_exit(fn -> Application.put_env(:dspex, DSPex.Python, configured) end)

    for pools <- [[general: [python: "/there/is/no/python"]], []] do
      Application.put_env(:dspex, DSPex.Python, pools: pools)
      assert ExUnit.CaptureIO.capture_io(fn -> Code.eval_file(script) end) == ""
    end
  end

  test "emits an event of each call when the application has :telemetry" do
    # Replaces the library, on which this project does not depend: it sends the event to the calling process.
    Code.compile_string("""
    defmodule :telemetry do
      def execute(event, measurements, metadata), do: send(self(), {event, measurements, metadata})
    end
    """)

    on_exit(fn ->
      :code.purge(:telemetry)
      :code.delete(:telemetry)
    end)

    {:ok, _pong} = DSPex.Python.ping()
    assert_received {[:dspex, :call, :stop], %{duration: duration}, metadata}
    assert duration > 0
    assert %{pool: :general, operation: :ping, result: :ok} = metadata

    {:error, _error} = DSPex.Python.describe_module("dspy.No")
    assert_received {[:dspex, :call, :stop], _measurements, %{result: :module_not_found}}
  end

  test "returns an error of every call when it is stopped, and starts its pools again" do
    ExUnit.CaptureLog.capture_log(fn -> :ok = Application.stop(:dspex) end)
    on_exit(fn -> {:ok, _started} = Application.ensure_all_started(:dspex) end)

    assert {:error, %DSPex.Python.Error{kind: :pool_not_found} = error} = DSPex.Python.ping()
    assert error.message =~ "start the application :dspex"
    assert {:error, :not_started} = DSPex.Python.start_pool(:late, model: :embedded)
    assert {:error, %{kind: :pool_not_found}} = DSPex.Python.restart_pool(:general)

    # A pool under a supervisor of the application's own.
    message =
      ~r/pool :late needs the application :dspex, which is not started; .*ensure_all_started/

    options = [name: :late, model: :embedded]
    assert_raise RuntimeError, message, fn -> DSPex.Python.Pool.start_link(options) end
    Process.flag(:trap_exit, true)

    assert {:error, {:shutdown, {:failed_to_start_child, _id, reason}}} =
             Supervisor.start_link([{DSPex.Python.Pool, options}], strategy: :one_for_one)

    assert Exception.format_exit(reason) =~ message
    assert {:error, %{kind: :pool_not_found}} = DSPex.Python.stop_pool(:general)

    {:ok, _started} = Application.ensure_all_started(:dspex)
    # A call that is made before Python is ready waits for it.
    assert {:ok, %{"payload" => :boot}} = DSPex.Python.ping(:boot)
  end
end
