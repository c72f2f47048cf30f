defmodule DSPex.Python.Port.StartupTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Error

  # How long a caller may have to wait after its timeout.
  @tolerance_ms 5_000

  # An interpreter that does nothing, and a function that returns the processes of its starts.
  defp hanging!(folder) do
    python = script!(folder, "#!/bin/sh\ntouch #{folder}/$$.started\nexec sleep 600\n")

    {python,
     fn ->
       for file <- Path.wildcard(folder <> "/*.started"), do: Path.basename(file, ".started")
     end}
  end

  describe "a Python that cannot be started" do
    @describetag :tmp_dir

    test "is an error that names its path, if it does not exist" do
      pool = start_pool!(python: "/there/is/no/python")
      assert {:error, %Error{kind: :missing_dependency} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ ~s|there is no executable python at "/there/is/no/python"|
      assert error.message =~ "set the option :python of pool #{inspect(pool)}"
      # Every further call returns the same error, at once.
      {result, duration_ms} = timed(fn -> Python.ping(nil, pool: pool) end)
      assert {:error, ^error} = result
      assert duration_ms < @tolerance_ms
    end

    test "is the error of start_pool/2, if its path names no executable file", %{tmp_dir: folder} do
      plain = Path.join(folder, "plain")
      File.write!(plain, "")
      Enum.each([".venv", ".venv/bin"], &File.mkdir!(Path.join(folder, &1)))
      venv = Path.join(folder, ".venv")
      File.write!(Path.join(venv, "bin/python"), "")

      for {python, part} <- [
            {"/there/is/no/python",
             ~s|there is no executable python at "/there/is/no/python"; set the option :python|},
            {"no-such-python", ~s|there is no executable python at "no-such-python"|},
            {plain, "is not executable; set the option :python of pool :not_started"},
            {venv,
             ~s|is a folder; set the option :python of pool :not_started to "#{venv}/bin/python"|}
          ] do
        assert {:error, %Error{kind: :missing_dependency} = error} =
                 Python.start_pool(:not_started, python: python, model: :embedded)

        assert error.message =~ part
        assert {:error, %Error{kind: :pool_not_found}} = Python.stop_pool(:not_started)
      end

      # What must be run to be found out is told by the first call, and by await_pools.
      python = script!(folder, "#!/bin/sh\nexit 3\n")

      capture_log(fn ->
        assert {:ok, _pool} = Python.start_pool(:broken, python: python, model: :embedded)

        assert {:error, %Error{kind: :missing_dependency} = error} =
                 Python.ping(nil, pool: :broken)

        assert error.message =~ ~s|python at "#{python}" ended with status 3 before it was ready|
        assert {:error, ^error} = Python.await_pools([:broken], 5_000)
        assert :ok = Python.stop_pool(:broken)
      end)
    end

    test "is said once in the log, and anew when the cause changes", %{tmp_dir: folder} do
      # Each attempt once wrote its entry over the prompt of IEx: six in the first half minute.
      python = Path.join(folder, "python")

      log =
        capture_log(fn ->
          pool = start_pool!(name: :without_python, python: python)
          eventually(fn -> failures(pool) == 2 end)
          script!(folder, "#!/there/is/no/shell\n")
          eventually(fn -> failures(pool) == 3 end)
          stop_supervised!(pool)
        end)

      assert [_before, first, second] = String.split(log, "pool :without_python has no python: ")
      assert first =~ ~s|there is no executable python at "#{python}"|
      assert first =~ "its start is tried again, at least every 30 s"
      assert second =~ "before it was ready"
    end

    test "writes what its end says once, and the log has one entry for all workers", %{
      tmp_dir: folder
    } do
      # Each attempt of each worker, and of the template process, wrote a traceback to standard error.
      ends = script!(folder, "#!/bin/sh\necho told >&2\nexit 3\n")
      bare = script!(folder, ~s|#!/bin/sh\nexec #{interpreter()} -I -S "$@"\n|, "bare")

      script = """
      {:ok, _started} = Application.ensure_all_started(:dspex)
      failures = fn pool ->
        for {_number, owner, _worker} <- DSPex.Python.Port.Names.workers(pool),
            do: :sys.get_state(owner).startup.failures
      end

      for {python, index} <- Enum.with_index(System.argv()) do
        pool = :"pool_\#{index}"
        {:ok, _pid} = DSPex.Python.start_pool(pool, python: python, size: 2, standby: 0, template: true)
        Enum.find(Stream.repeatedly(fn -> Process.sleep(20); failures.(pool) end), &Enum.min(&1) > 2)
        IO.puts("tried")
      end
      """

      beams = Path.join(Application.app_dir(:dspex), "ebin")
      args = ["-pa", beams, "-e", script, "--", ends, bare]
      {output, 0} = System.cmd("elixir", args, stderr_to_stdout: true)
      lines = String.split(output, "\n")
      assert Enum.count(lines, &(&1 == "tried")) == 2
      # The two workers, and the template process.
      assert Enum.count(lines, &(&1 == "told")) <= 3
      refute output =~ "Traceback"
      refute output =~ "the template process"

      assert [_before, of_ends, of_bare] = String.split(output, " has no python: ")
      assert of_ends =~ "ended with status 3 before it was ready"
      assert of_bare =~ "ModuleNotFoundError: No module named"
      assert of_bare =~ "or set the option :python of pool :pool_1 to a python that has it"
    end

    test "is made by make demo in the repository of this project", %{tmp_dir: folder} do
      for path <- ["Makefile", "erlport_bridge/__main__.py"] do
        file = Path.join(folder, path)
        File.mkdir_p!(Path.dirname(file))
        File.write!(file, "")
      end

      pool = start_pool!(python: Path.join(folder, ".venv/bin/python"))
      assert {:error, %Error{} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ "run `make demo` in #{folder}, which makes it"
    end

    test "is an error that names the missing package", %{tmp_dir: folder} do
      # With these flags Python finds no installed package.
      python = script!(folder, ~s|#!/bin/sh\nexec #{interpreter()} -I -S "$@"\n|)
      pool = start_pool!(python: python)
      assert {:error, %Error{kind: :missing_dependency} = error} = Python.ping(nil, pool: pool)

      assert error.message =~
               "ended with status 1 before it was ready: ModuleNotFoundError: No module named"

      assert error.message =~ "install it with: #{python} -m pip install /path/to/erlport_bridge"
    end

    test "is an error that names the wrong limit of the environment", %{tmp_dir: folder} do
      # It was of the kind missing_dependency.
      for {variable, value} <- [{"DSPEX_MAX_PROGRAMS", "many"}, {"DSPEX_WARM_SANDBOXES", "99"}] do
        python = script!(folder, ~s|#!/bin/sh\n#{variable}=#{value} exec #{interpreter()} "$@"\n|)

        pool = start_pool!(python: python)
        assert {:error, %Error{kind: :input} = error} = Python.ping(nil, pool: pool)
        assert error.message =~ ~s|in the environment at #{variable}, got "#{value}"|
      end
    end

    test "is an error that names the missing module of :preload" do
      pool = start_pool!(preload: ["no_such_tools"])
      assert {:error, %Error{} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ "No module named 'no_such_tools'"

      assert error.message =~
               "check the options :preload, :modules and :python_path of pool #{inspect(pool)}"
    end

    test "is an error that names the missing module of :modules; the others are offered",
         %{tmp_dir: folder} do
      File.write!(Path.join(folder, "shouting.py"), """
      import dspy

      class Loud(dspy.Module):
          def forward(self, text: str, marks: int = 1):
              return dspy.Prediction(loud=text.upper() + "!" * marks)
      """)

      pool = start_pool!(python_path: [folder], modules: ["shouting.Loud"])
      assert {:ok, names} = Python.list_modules(pool: pool)
      assert "shouting.Loud" in names

      assert {:ok, prediction} =
               Python.execute_module("shouting.Loud", nil, [text: "ho", marks: 2], pool: pool)

      assert prediction[:loud] == "HO!!"

      adapter = %DSPex.LLM.Adapters.Python{pool: pool}
      assert {:ok, _loud} = DSPex.LLM.Adapter.generate(adapter, "ho", module: "shouting.Loud")

      pool = start_pool!(python_path: [folder], modules: ["shouting.Quiet"])
      assert {:error, %Error{} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ ~S|cannot offer the module "shouting.Quiet"|
      assert error.message =~ "check the options :preload, :modules"
    end

    test "is an error that names the packages that the export of spans needs", %{tmp_dir: folder} do
      File.mkdir!(Path.join(folder, "opentelemetry"))
      File.write!(Path.join(folder, "opentelemetry/__init__.py"), "")

      # With modules: Python ends, without them it answers.
      File.write!(Path.join(folder, "quiet.py"), """
      import dspy

      class Quiet(dspy.Module):
          def forward(self, text: str):
              return dspy.Prediction(quiet=text)
      """)

      for options <- [[], [size: 2], [modules: ["quiet.Quiet"]]] do
        pool = start_pool!([python_path: [folder], otlp: true] ++ options)
        assert {:error, %Error{kind: :missing_dependency} = error} = Python.ping(nil, pool: pool)
        assert error.message =~ "exporting spans by OTLP needs the module opentelemetry"

        assert error.message =~
                 "-m pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
      end
    end

    test "is an error when it is not ready in time", %{tmp_dir: folder} do
      python = script!(folder, "#!/bin/sh\nexec sleep 600\n")
      pool = start_pool!(python: python, start_timeout: 200)
      assert {:error, %Error{kind: :port_closed} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ "was not ready within 200 ms"
    end

    test "is killed when it hangs", %{tmp_dir: folder} do
      # It does not read, so it does not notice that its port is closed. Each attempt once left one more process.
      {python, pids} = hanging!(folder)
      pool = start_pool!(python: python, start_timeout: 500)
      assert {:error, %Error{kind: :port_closed}} = Python.ping(nil, pool: pool)
      [os_pid | _further] = pids.()
      eventually(fn -> not alive?(os_pid) end)
    end

    # It was left to notice its closed port, which it does only when it has imported what it needs for that.
    for template <- [false, true] do
      test "is killed when its pool stops#{if template, do: ", with a template process"}",
           %{tmp_dir: folder} do
        {python, pids} = hanging!(folder)
        pool = start_pool!(python: python, template: unquote(template))
        count = if unquote(template), do: 2, else: 1
        eventually(fn -> length(pids.()) == count end)
        :ok = stop_supervised(pool)
        for os_pid <- pids.(), do: eventually(fn -> not alive?(os_pid) end)
      end
    end

    # The one that finds out why it does not start was left alone with the import.
    test "leaves no process when its pool stops while the cause is looked for",
         %{tmp_dir: folder} do
      File.write!(Path.join(folder, "ends_then_sleeps.py"), """
      import os, pathlib, sys, time
      if any(flag.startswith("--worker") for flag in sys.argv):
          os._exit(7)
      pathlib.Path(__file__).with_name("probe").write_text(str(os.getpid()))
      time.sleep(1000)
      """)

      options = [python_path: [folder], preload: ["ends_then_sleeps"]]
      pool = start_pool!(options)
      file = Path.join(folder, "probe")

      probe =
        eventually(fn -> match?({:ok, <<_, _::binary>>}, File.read(file)) && File.read!(file) end)

      :ok = stop_supervised(pool)
      eventually(fn -> not alive?(probe) end)
    end

    # The owner of the port crashed, and its callers were told that the pool had been stopped.
    test "is an error that shows what it answers, if a module has removed ours",
         %{tmp_dir: folder} do
      File.write!(Path.join(folder, "removes.py"), """
      import sys
      for name in [name for name in sys.modules if name.startswith("erlport_bridge")]:
          del sys.modules[name]
      """)

      pool = start_pool!(python_path: [folder], preload: ["removes"])
      assert {:error, %Error{kind: :missing_dependency} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ ~r/answered ping with .*check the options :preload/
    end

    test "is an error that names its path, if it is a script that cannot be executed", %{
      tmp_dir: folder
    } do
      pool = start_pool!(python: script!(folder, "#!/there/is/no/shell\n"))
      assert {:error, %Error{kind: :missing_dependency} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ "before it was ready"
      assert error.message =~ ~r/option :python of pool #{inspect(pool)}/
    end

    test "is tried again later", %{tmp_dir: folder} do
      python = Path.join(folder, "python")
      pool = start_pool!(python: python)
      assert {:error, %Error{kind: :missing_dependency}} = Python.ping(nil, pool: pool)
      client = client(pool)
      script!(folder, ~s|#!/bin/sh\nexec #{interpreter()} "$@"\n|)

      assert eventually(fn -> match?({:ok, _pong}, Python.ping(nil, pool: pool)) end)
      # The owner has waited itself; no supervisor has restarted it.
      assert client(pool) == client
    end
  end

  defp failures(pool), do: :sys.get_state(client(pool)).startup.failures
end
