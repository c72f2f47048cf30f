defmodule DSPex.Python.Port.InterpreterTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.Error

  # Whatever blocks Python, its child processes end with it.
  for {cause, code} <- [
        {"holds the GIL in C code", "sum(range(10**13))"},
        {"was stopped", "os.kill(os.getpid(), signal.SIGSTOP)"}
      ] do
    @tag :tmp_dir
    test "a stopped pool ends a Python that #{cause}", %{tmp_dir: folder} do
      File.write!(Path.join(folder, "busy_module.py"), busy_module(folder, unquote(code)))
      pool = start_pool!(python_path: [folder], preload: ["busy_module"], heartbeat: false)
      {:ok, _pong} = Python.ping(nil, pool: pool)
      python = os_pid(pool)
      File.write!(Path.join(folder, "go"), "")
      child = eventually(fn -> child_in(folder) end)

      {_stopped, duration_ms} =
        timed(fn ->
          :ok = stop_supervised(pool)
          eventually(fn -> not alive?(python) and not alive?(child) end)
        end)

      # One second on an idle machine; longer in proportion on a busy one.
      assert duration_ms < 1_000 * max(1, start_of_a_process_ms() / 20)
    end
  end

  test "a stopped pool ends a Python that does not read" do
    pool = start_pool!(heartbeat: false)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    python = os_pid(pool)
    port = :sys.get_state(client(pool)).port
    signal(pool, "STOP")

    assert {:error, %Error{kind: :timeout}} =
             Python.ping(:binary.copy("x", 8_388_608), pool: pool, timeout: 500)

    assert {:queue_size, bytes} = Port.info(port, :queue_size)
    assert bytes > 0
    :ok = stop_supervised(pool)
    eventually(fn -> Port.info(port) == nil and not alive?(python) end)
  end

  @tag :tmp_dir
  test "a halting BEAM ends a Python that does not read", %{tmp_dir: folder} do
    script = Path.join(folder, "ends.exs")

    File.write!(script, """
    {:ok, _pong} = DSPex.Python.ping()
    [{client, _model}] = Registry.lookup(DSPex.Python.Registry, {:port, :general})
    {:os_pid, python} = Port.info(:sys.get_state(client).port, :os_pid)
    {"", 0} = System.cmd("kill", ["-STOP", to_string(python)])
    {:error, error} = DSPex.Python.ping(:binary.copy("x", 8_388_608), timeout: 500)
    IO.puts("\#{error.kind} \#{python}")
    """)

    running =
      Task.async(fn ->
        System.cmd("mix", ["run", "--no-compile", script], env: [{"MIX_ENV", "test"}])
      end)

    assert {"timeout " <> python, 0} = Task.await(running, 30_000)
    eventually(fn -> not alive?(String.trim(python)) end)
  end

  defp child_in(folder) do
    case File.read(Path.join(folder, "child")) do
      {:ok, pid} when pid != "" -> String.to_integer(pid)
      _not_yet -> nil
    end
  end

  defp start_of_a_process_ms do
    {_done, duration_ms} = timed(fn -> System.cmd(interpreter(), ["-I", "-S", "-c", ""]) end)
    duration_ms
  end

  defp busy_module(folder, code) do
    """
    import os, pathlib, signal, subprocess, threading, time

    def work():
        folder = pathlib.Path(#{inspect(folder)})
        while not (folder / "go").exists():
            time.sleep(0.01)
        child = subprocess.Popen(["sleep", "1000"])
        (folder / "child").write_text(str(child.pid))
        #{code}

    threading.Thread(target=work, daemon=True).start()
    """
  end
end
