defmodule DSPex.Chaos.BeamKilledTest do
  # Other tests count the processes of the machine at the same time.
  use ExUnit.Case, async: false

  import DSPex.Chaos
  import DSPex.TestPython

  @moduletag timeout: :infinity
  @moduletag :tmp_dir
  # The processes are found by their environment.
  @moduletag skip: if(not File.dir?("/proc"), do: "the system has no /proc")

  # Code of a separate node whose callers never stop: they make small calls, calls of a slow model, and calls for which
  # Python waits in a thread.
  @node """
  [python, folder] = System.argv()
  {:ok, _started} = Application.ensure_all_started(:dspex)
  alias DSPex.Python
  {:ok, _pool} = Python.start_pool(:chaos, python: python, python_path: [folder], model: :embedded)
  {:ok, _pong} = Python.ping(nil, pool: :chaos)

  slow = fn _request ->
    Process.sleep(:rand.uniform(50))
    DSPex.Python.ScriptedModel.written(answer: "a")
  end

  code = fn _request -> DSPex.Python.ScriptedModel.written(reasoning: "r", generated_code: "while True: pass") end

  calls = [
    fn -> Python.ping(make_ref(), pool: :chaos) end,
    fn -> Python.execute_module("dspy.Predict", "q -> answer", "?", pool: :chaos, lm: {:elixir, slow}) end,
    fn -> Python.execute_module("dspy.ProgramOfThought", "q -> answer", "?", pool: :chaos, lm: {:elixir, code}) end
  ]

  for number <- 0..11 do
    spawn(fn -> Enum.each(Stream.cycle([Enum.at(calls, rem(number, 3))]), & &1.()) end)
  end

  IO.puts("ready " <> System.pid())
  Process.sleep(:infinity)
  """

  test "the death of a BEAM under load ends its Python and all child processes", %{
    tmp_dir: folder
  } do
    seed = seed!()
    script = Path.join(folder, "node.exs")
    File.write!(script, @node)

    for _round <- 1..rounds(2) do
      {port, os_pid} = start_node(script, folder)
      Process.sleep(:rand.uniform(3_000))
      assert length(marked(folder)) >= 2, seed
      :ok = signal_process(os_pid, "KILL")
      assert_receive {^port, {:exit_status, _status}}, 10_000
      {_gone, ms} = timed(fn -> eventually(fn -> marked(folder) == [] end) end)
      # The promise is one second; the limit is longer because the machine may be busy.
      assert ms < 10_000, seed
    end
  end

  # Returns the port of the node's process, and the id of the process.
  defp start_node(script, folder) do
    beams = Path.join(Application.app_dir(:dspex), "ebin")

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        {:line, 1_000},
        :stderr_to_stdout,
        args: ["-pa", beams, script, interpreter(), folder]
      ])

    {port, await_ready(port)}
  end

  defp await_ready(port) do
    receive do
      {^port, {:data, {:eol, "ready " <> os_pid}}} -> os_pid
      {^port, {:data, _other_line}} -> await_ready(port)
      {^port, {:exit_status, status}} -> flunk("the node ended with status #{status}")
    after
      60_000 -> flunk("the node is not ready")
    end
  end
end
