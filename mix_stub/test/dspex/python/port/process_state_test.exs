defmodule DSPex.Python.Port.ProcessStateTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python.Port.{Interpreter, ProcessState}

  @moduletag skip: if(not File.dir?("/proc"), do: "the system has no /proc")

  # Returns the port and the id of a process that ends with the test.
  defp run!(program, args) do
    port = Port.open({:spawn_executable, program}, [:binary, {:line, 100}, args: args])
    {:os_pid, pid} = Port.info(port, :os_pid)
    # It may have ended by then.
    on_exit(fn ->
      System.cmd("/bin/sh", ["-c", "kill -KILL #{pid}"], stderr_to_stdout: true)
    end)

    {port, pid}
  end

  defp sleep!, do: run!(System.find_executable("sleep"), ["600"])

  @tag :tmp_dir
  test "tells of a process whether it is stopped, whatever its name", %{tmp_dir: folder} do
    for name <- ["sleep", "a) T (b", "T) T 1 ) S", "(((((", "ü) T"] do
      program = Path.join(folder, name)
      File.write!(program, "#!/bin/sh\nwhile :; do read line; done\n")
      File.chmod!(program, 0o755)
      {_port, pid} = run!(program, [])
      process = ProcessState.open(pid)
      refute ProcessState.stopped_after(process)
      signal_process(pid, "STOP")
      eventually(fn -> ProcessState.stopped_after(process) end)
      signal_process(pid, "CONT")
      eventually(fn -> ProcessState.stopped_after(process) == nil end)
      signal_process(pid, "STOP")
      signal_process(pid, "KILL")
      eventually(fn -> ProcessState.stopped_after(process) == nil end)
    end
  end

  test "a process that has ended is not stopped, and has no state to open" do
    {port, pid} = sleep!()
    process = ProcessState.open(pid)
    Port.close(port)
    signal_process(pid, "KILL")
    eventually(fn -> not File.exists?("/proc/#{pid}") end)
    refute ProcessState.stopped_after(process)
    assert ProcessState.open(pid) == nil
  end

  # What a debugger does: it holds the process for as long as somebody thinks about it.
  @tag :tmp_dir
  test "a process that is traced is not stopped", %{tmp_dir: folder} do
    {_port, pid} = sleep!()
    tracer = Path.join(folder, "tracer.py")

    File.write!(tracer, """
    import ctypes, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    attached = libc.ptrace(16, int(sys.argv[1]), None, None) == 0
    if attached:
        os.waitpid(int(sys.argv[1]), 0)
    print("attached" if attached else "refused", flush=True)
    sys.stdin.read()
    """)

    {tracer, _pid} = run!(interpreter(), [tracer, to_string(pid)])
    assert_receive {^tracer, {:data, {:eol, attached}}}, 30_000

    if attached == "attached" do
      assert File.read!("/proc/#{pid}/stat") =~ ") t "
      refute ProcessState.stopped_after(ProcessState.open(pid))
    end

    Port.close(tracer)
  end

  test "only a process that belongs to the port is its Python" do
    {port, pid} = sleep!()
    {_port, other} = sleep!()
    assert %ProcessState{} = Interpreter.process_state(port, pid)

    for wrong <- [other, 1, nil, "#{pid}", -1],
        do: assert(nil == Interpreter.process_state(port, wrong))

    Port.close(port)
    assert Interpreter.process_state(port, pid) == nil
  end
end
