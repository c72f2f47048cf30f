defmodule DSPex.Python.Port.TemplateTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Error
  alias DSPex.Python.Port.{Interpreter, Names, ProcessState, Template}

  @moduletag :tmp_dir
  @moduletag skip: :os.type() != {:unix, :linux}

  # A pool with a template process that knows the module `busy`.
  setup %{tmp_dir: folder} do
    File.write!(Path.join(folder, "busy.py"), """
    import os, signal, threading, time

    def wait():
        while not os.path.exists(#{inspect(Path.join(folder, "go"))}):
            time.sleep(0.01)
        if os.path.exists(#{inspect(Path.join(folder, "stop"))}):
            os.kill(os.getpid(), signal.SIGSTOP)
        sum(range(10**13))

    if os.path.exists(#{inspect(Path.join(folder, "in_thread"))}):
        threading.Thread(target=wait, daemon=True).start()
    """)

    {:ok, options: [python_path: [folder], preload: ["busy"], heartbeat: false, template: true]}
  end

  test "a worker is forked, and answers", %{options: options} do
    pool = start_pool!(options)

    assert {:ok, prediction} =
             Python.execute_module("dspy.Predict", "question -> answer", "Who?", pool: pool)

    assert is_binary(prediction[:answer])
    assert [_worker] = workers(pool)
  end

  test "a worker is forked again after its end, with its status", %{options: options} do
    pool = start_pool!(options)
    {:ok, _pong} = Python.ping(nil, pool: pool)

    for signal <- [9, 15, 11] do
      [worker] = workers(pool)
      owner = client(pool)

      log =
        capture_log(fn ->
          signal_process(worker, signal)
          eventually(fn -> not Process.alive?(owner) end)
        end)

      assert log =~ "was killed by signal #{signal}"
      {:ok, _pong} = Python.ping(nil, pool: pool)
      assert [other] = workers(pool)
      assert other != worker
    end
  end

  for who <- [:worker, :template, :launcher] do
    @tag stopped: who
    test "a stopped pool ends all processes, also a stopped #{who}", %{
      options: options,
      stopped: stopped
    } do
      pool = start_pool!(options)
      {:ok, _pong} = Python.ping(nil, pool: pool)
      processes = processes(pool)
      signal_process(processes[stopped], "STOP")
      # On a busy machine a signal takes effect later.
      eventually(fn -> ProcessState.stopped?(processes[stopped]) end)
      :ok = stop_supervised(pool)

      for {_name, pid} <- processes, do: eventually(fn -> not alive?(pid) end)
    end
  end

  test "a stopped worker is killed with its launcher, whatever else is stopped", %{
    options: options
  } do
    pool = start_pool!(Keyword.delete(options, :heartbeat))
    {:ok, _pong} = Python.ping(nil, pool: pool)
    %{worker: worker, launcher: launcher, template: template} = processes(pool)
    for pid <- [template, launcher, worker], do: signal_process(pid, "STOP")

    owner = client(pool)

    log =
      capture_log(fn ->
        eventually(fn -> not Process.alive?(owner) end)
        eventually(fn -> not alive?(worker) and not alive?(launcher) end)
      end)

    assert log =~ "was stopped by a signal for 1000 ms"
    signal_process(template, "CONT")
    assert {:ok, _pong} = Python.ping(nil, pool: pool)
  end

  for {title, heartbeat, stop?} <- [
        {"with its pool", false, true},
        {"by its owner", [interval: 100], false}
      ] do
    @tag heartbeat: heartbeat, stop?: stop?
    test "a stopped worker whose launcher and template process were killed is killed #{title}", %{
      options: options,
      heartbeat: heartbeat,
      stop?: stop?
    } do
      pool = start_pool!(Keyword.put(options, :heartbeat, heartbeat))
      {:ok, _pong} = Python.ping(nil, pool: pool)
      %{worker: worker, launcher: launcher, template: template} = processes(pool)
      signal_process(worker, "STOP")
      eventually(fn -> ProcessState.stopped?(worker) end)

      capture_log(fn ->
        for pid <- [template, launcher], do: signal_process(pid, "KILL")
        if stop?, do: :ok = stop_supervised(pool)
        eventually(fn -> not alive?(worker) end)
      end)
    end
  end

  test "a template process that dies is started again, and its workers live on", %{
    options: options
  } do
    pool = start_pool!(options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    socket = Template.socket(pool)
    %{worker: worker, template: template} = processes(pool)

    log =
      capture_log(fn ->
        signal_process(template, "KILL")
        eventually(fn -> Template.socket(pool) not in [socket, nil] end)
      end)

    assert log =~ "the template process of pool #{inspect(pool)} was killed by signal 9"
    refute File.exists?(Path.dirname(socket))
    {:ok, _pong} = Python.ping(nil, pool: pool)
    assert alive?(worker)

    # Nobody can say how this one ends.
    owner = client(pool)

    log =
      capture_log(fn ->
        signal_process(worker, "KILL")
        eventually(fn -> not Process.alive?(owner) end)
      end)

    assert log =~ "ended with an unknown status"
    {:ok, _pong} = Python.ping(nil, pool: pool)
    assert [_forked] = workers(pool)
  end

  test "a template process that stays stopped is replaced, and workers start by themselves until then",
       %{
         options: options
       } do
    pool = start_pool!([size: 2, standby: 0] ++ options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    [worker, other] = eventually(fn -> match?([_one, _other], workers(pool)) && workers(pool) end)
    %{template: template} = processes(pool)
    socket = Template.socket(pool)

    log =
      capture_log(fn ->
        signal_process(template, "STOP")
        began_at = System.monotonic_time(:millisecond)
        for pid <- [worker, other], do: signal_process(pid, "KILL")

        eventually(fn ->
          match?(
            {:ok, %{"pid" => pid}} when pid not in [worker, other],
            Python.ping(nil, pool: pool)
          )
        end)

        # Half of the time that a start may take, and more, before: it was waited for.
        assert System.monotonic_time(:millisecond) - began_at < 15_000
        eventually(fn -> Template.socket(pool) not in [socket, nil] end)
      end)

    refute alive?(template)
    assert log =~ "the template process of pool #{inspect(pool)} was killed by signal 9"
    assert log =~ "workers start by themselves until then"
  end

  test "restart_pool/1 forks the next worker", %{options: options} do
    pool = start_pool!(options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    before = os_pid(pool)
    :ok = Python.restart_pool(pool)
    assert os_pid(pool) != before
    assert {:ok, _pong} = Python.ping(nil, pool: pool)
    eventually(fn -> match?([_worker], workers(pool)) end)
  end

  test "a module that starts a thread is named once, and workers start by themselves", %{
    options: options,
    tmp_dir: folder
  } do
    File.touch!(Path.join(folder, "in_thread"))

    log =
      capture_log(fn ->
        pool = start_pool!(options)
        {:ok, _pong} = Python.ping(nil, pool: pool)
        assert workers(pool) == []
        eventually(fn -> Template.socket(pool) == nil end)
        first = os_pid(pool)
        :ok = signal_process(first, "KILL")

        eventually(fn ->
          not alive?(first) and match?({:ok, _pong}, Python.ping(nil, pool: pool))
        end)

        Process.sleep(100)
      end)

    assert [_before, _after] = String.split(log, "without a template process")
    assert log =~ "importing 'busy' has started the thread 'Thread-1 (wait)' of busy.wait"
  end

  test "a module that cannot be imported fails the pool as it does without a template process", %{
    options: options
  } do
    [with_template, without] =
      for template <- [true, false] do
        pool =
          start_pool!(Keyword.merge(options, template: template, preload: ["no_such_module"]))

        assert {:error, %Error{} = error} = Python.ping(nil, pool: pool)
        {error.kind, String.replace(error.message, inspect(pool), "POOL")}
      end

    assert with_template == without
    assert elem(without, 1) =~ "No module named"
  end

  test "another environment of the node gives other workers", %{options: options} do
    # Not `System.put_env/2`, which other tests would see.
    pool = start_pool!([env: %{"TEMPLATE_TEST" => "1"}] ++ options)
    {:ok, _pong} = Python.ping(nil, pool: pool)
    assert [worker] = workers(pool)
    assert File.read!("/proc/#{worker}/environ") =~ "TEMPLATE_TEST=1"
  end

  test "a halting node ends all, also a stopped worker that does not read", %{tmp_dir: folder} do
    script = Path.join(folder, "ends.exs")

    File.write!(script, """
    options = [python: DSPex.TestPython.interpreter(), model: :embedded, template: true, heartbeat: false]
    {:ok, _pool} = DSPex.Python.start_pool(:here, options)
    {:ok, _pong} = DSPex.Python.ping(nil, pool: :here)
    processes = DSPex.TestPython.processes(:here)
    DSPex.TestPython.signal_process(processes.worker, "STOP")
    {:error, error} = DSPex.Python.ping(:binary.copy("x", 8_388_608), pool: :here, timeout: 500)
    IO.puts("\#{error.kind} \#{processes.worker} \#{processes.launcher} \#{processes.template}")
    """)

    assert {"timeout " <> pids, 0} =
             System.cmd("mix", ["run", "--no-compile", script], env: [{"MIX_ENV", "test"}])

    for pid <- String.split(pids), do: eventually(fn -> not alive?(pid) end)
  end

  test "pools have no template process by default" do
    pool = start_pool!()
    {:ok, _pong} = Python.ping(nil, pool: pool)
    assert Names.lookup(:template, pool) == nil
    assert Interpreter.ending(125) =~ "unknown status"
  end
end
