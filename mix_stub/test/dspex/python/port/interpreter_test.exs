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

      done? = :atomics.new(1, [])
      meanwhile = Task.async(fn -> longest_start_of_a_process_ms(done?, 0) end)

      {_stopped, duration_ms} =
        timed(fn ->
          :ok = stop_supervised(pool)
          eventually(fn -> not alive?(python) and not alive?(child) end)
        end)

      :atomics.put(done?, 1, 1)
      # One second on an idle machine; longer in proportion on one that is busy at that time.
      assert duration_ms < 1_000 * max(1, Task.await(meanwhile, 60_000) / 20)
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

  for {title, has_kill} <- [{"", true}, {", also without a program `kill`", false}] do
    @tag :tmp_dir
    test "a halting BEAM ends a Python that does not read#{title}", %{tmp_dir: folder} do
      script = Path.join(folder, "ends.exs")

      File.write!(script, """
      {:ok, _pong} = DSPex.Python.ping()
      python = DSPex.TestPython.os_pid(:general)
      DSPex.TestPython.signal(:general, "STOP")
      {:error, error} = DSPex.Python.ping(:binary.copy("x", 8_388_608), timeout: 500)
      IO.puts("\#{error.kind} \#{python}")
      """)

      path = if unquote(has_kill), do: System.get_env("PATH"), else: path_without_kill!(folder)
      environment = [{"MIX_ENV", "test"}, {"PATH", path}]

      running =
        Task.async(fn ->
          System.cmd("mix", ["run", "--no-compile", script], env: environment)
        end)

      assert {"timeout " <> python, 0} = Task.await(running, 120_000)
      eventually(fn -> not alive?(String.trim(python)) end)
    end
  end

  # A folder that leads to all programs but `kill`, as in an image without the package procps.
  defp path_without_kill!(folder) do
    bin = Path.join(folder, "bin")
    File.mkdir!(bin)

    for place <- String.split(System.get_env("PATH"), ":"),
        program <- Path.wildcard(Path.join(place, "*")),
        Path.basename(program) != "kill",
        do: File.ln_s(program, Path.join(bin, Path.basename(program)))

    bin
  end

  describe "files in the folder in which the node was started" do
    @describetag :tmp_dir

    # A `random.py` there was once imported, and run, in place of Python's own.
    test "are not imported by a pool", %{tmp_dir: folder} do
      shadow!(folder)

      output =
        in_folder!(folder, """
        options = [name: :here, python: #{inspect(interpreter())}, model: :embedded]
        {:ok, _pool} = DSPex.Python.Pool.start_link(options)
        IO.inspect(DSPex.Python.execute_module("dspy.Predict", "question -> answer", "Who?", pool: :here))
        """)

      assert output =~ "#DSPex.Prediction<"
      assert imported(folder) == []
    end

    test "are imported by a pool whose :python_path names the folder", %{tmp_dir: folder} do
      marker!(folder, "tools_here")

      output =
        in_folder!(folder, """
        options = [name: :here, python: #{inspect(interpreter())}, python_path: ["."], preload: ["tools_here"]]
        {:ok, _pool} = DSPex.Python.Pool.start_link(options)
        IO.inspect(DSPex.Python.ping(nil, pool: :here))
        """)

      assert output =~ "{:ok,"
      assert imported(folder) == ["tools_here"]
    end

    test "are not imported by a Python that cannot start, nor by the search for the cause", %{
      tmp_dir: folder
    } do
      shadow!(folder)

      for python <- interpreters() do
        output =
          in_folder!(folder, """
          options = [name: :here, python: #{inspect(python)}, preload: ["no_such_tools"]]
          {:ok, _pool} = DSPex.Python.Pool.start_link(options)
          IO.inspect(DSPex.Python.ping(nil, pool: :here))
          """)

        assert output =~ "No module named"
        assert {python, imported(folder)} == {python, []}
      end
    end
  end

  # Fills a folder with a file for each module that Python imports at its start, or searches for.
  defp shadow!(folder) do
    code = "import sys, erlport_bridge.__main__, dspy_bridge; print(*sys.modules)"
    {output, 0} = System.cmd(interpreter(), ["-c", code])

    names =
      for name <- String.split(output), not String.contains?(name, "."), uniq: true, do: name

    assert Enum.all?(["random", "json", "dspy", "erlport_bridge", "orjson"], &(&1 in names))

    for name <- names ++ ["sitecustomize", "usercustomize", "runpy", "linecache"],
        do: marker!(folder, name)
  end

  # A module that leaves a file when it is imported.
  defp marker!(folder, name) do
    marker = Path.join(folder, name <> ".imported")
    File.write!(Path.join(folder, name <> ".py"), "open(#{inspect(marker)}, 'w').close()\n")
  end

  defp imported(folder),
    do:
      folder
      |> Path.join("*.imported")
      |> Path.wildcard()
      |> Enum.map(&Path.basename(&1, ".imported"))

  # Runs code in a node that is started in a folder, with an empty entry in its PYTHONPATH.
  defp in_folder!(folder, code) do
    script = Path.join(folder, "script.exs")
    File.write!(script, "{:ok, _apps} = Application.ensure_all_started(:dspex)\n" <> code)
    python_path = ":" <> System.get_env("PYTHONPATH", "")
    arguments = ["-pa", Application.app_dir(:dspex, "ebin"), script]
    {output, 0} = System.cmd("elixir", arguments, cd: folder, env: [{"PYTHONPATH", python_path}])
    output
  end

  defp child_in(folder) do
    case File.read(Path.join(folder, "child")) do
      {:ok, pid} when pid != "" -> String.to_integer(pid)
      _not_yet -> nil
    end
  end

  defp longest_start_of_a_process_ms(done?, longest_ms) do
    {_done, duration_ms} = timed(fn -> System.cmd(interpreter(), ["-I", "-S", "-c", ""]) end)
    longest_ms = max(longest_ms, duration_ms)

    if :atomics.get(done?, 1) == 1,
      do: longest_ms,
      else: longest_start_of_a_process_ms(done?, longest_ms)
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
