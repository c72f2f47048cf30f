defmodule DSPex.Chaos.WorkersTest do
  # Breaks processes of pools of several workers, and looks at all processes of the machine.
  use ExUnit.Case, async: false

  import DSPex.Chaos
  import DSPex.TestPython

  alias DSPex.{ChaosCallers, Python}
  alias DSPex.Python.{Error, ScriptedModel}
  alias DSPex.Python.Port.Names

  @moduletag timeout: :infinity
  @moduletag :capture_log
  @moduletag :tmp_dir
  @moduletag skip: if(not File.dir?("/proc"), do: "the system has no /proc")

  @qa "question -> answer"
  @allowed [:right, :worker_died, :quarantined]

  # Keeps 40 MB for each call.
  @leak """
  from erlport_bridge.programs.tools import offer

  kept = []

  @offer
  def leak() -> str:
      "Keeps memory."
      kept.append(bytearray(b"x") * 40_000_000)
      return "kept"
  """

  defp start_ready!(marker, options) do
    # Silent Pythons are noticed soon, and a template process that does not answer as well.
    soon = [heartbeat: [interval: 200, limit: 3_000], start_timeout: 20_000]
    pool = start_pool!(Keyword.merge([python_path: [marker]] ++ soon, options))
    assert Python.await_pools([pool], 120_000) == :ok
    eventually(fn -> whole?(pool) end)
    pool
  end

  # Whether each slot has a ready worker, each spare is ready, and nobody else is there.
  defp whole?(pool) do
    [{_supervisor, %{size: size}}] = Registry.lookup(DSPex.Python.Registry, {:pool, pool})
    [{_workers, needed}] = Registry.lookup(DSPex.Python.Registry, {:workers, pool})
    workers = for {_number, _owner, worker} <- Names.workers(pool), do: worker

    length(workers) == needed and Enum.all?(workers, &(&1.connection.port != nil)) and
      workers |> Enum.map(& &1.slot) |> Enum.reject(&is_nil/1) |> Enum.sort() ==
        Enum.to_list(1..size)
  end

  # The process of the system that serves one of the pool's slots: not its launcher.
  defp python_of(pool, slot) do
    {:ok, %{"pid" => pid}} =
      Python.Pool.call(pool, :ping, [nil], 30_000, route: {:slot, slot}) |> elem(1)

    pid
  end

  test "a worker that is stopped under load costs its own calls, and those only until it is killed",
       %{tmp_dir: marker} do
    seed = seed!()
    pool = start_ready!(marker, size: 3, standby: 1)

    for _round <- 1..max(div(rounds(1), 10), 1) do
      pid = python_of(pool, :rand.uniform(3))
      callers = ChaosCallers.start(pool, 18)
      Process.sleep(500)
      stopped_at = ChaosCallers.now()
      signal_process(pid, "STOP")
      eventually(fn -> not alive?(pid) end)
      killed_at = ChaosCallers.now()
      Process.sleep(300)
      seen = ChaosCallers.stop(callers)

      for {kind, verdict, _began, _ended} <- seen,
          do: assert(verdict in @allowed, "#{kind} gave #{inspect(verdict)}, #{seed}")

      # A second; the machine may be busy.
      assert killed_at - stopped_at < 20_000, seed
      silent? = fn at -> at in (stopped_at + 200)..(killed_at - 200)//1 end

      # The other workers went on: their callers had more answers meanwhile than they are.
      meanwhile = for {_kind, :right, _began, ended} <- seen, silent?.(ended), do: ended
      assert length(meanwhile) > 18, seed
      # Calls that began after the death found no stopped worker.
      for {kind, verdict, began, _ended} <- seen, began > killed_at + 200 do
        assert verdict == :right, "#{kind} gave #{inspect(verdict)} afterwards, #{seed}"
      end

      eventually(fn -> whole?(pool) end)
    end

    stop_supervised!(pool)
    eventually(fn -> marked(marker) == [] end)
  end

  test "a worker that is only paused loses no call", %{tmp_dir: marker} do
    seed = seed!()
    pool = start_ready!(marker, size: 2, standby: 0, heartbeat: [interval: 200, limit: 60_000])
    callers = ChaosCallers.start(pool, 10)

    for _round <- 1..rounds(3) do
      pid = python_of(pool, :rand.uniform(2))
      signal_process(pid, "STOP")
      Process.sleep(:rand.uniform(300))
      signal_process(pid, "CONT")
      Process.sleep(:rand.uniform(100))
    end

    for {kind, verdict, _began, _ended} <- ChaosCallers.stop(callers),
        do: assert(verdict == :right, "#{kind} gave #{inspect(verdict)}, #{seed}")
  end

  for size <- 1..8 do
    # In the normal suite one of a middle size.
    if size != 3, do: @tag(:long)

    test "random faults in a pool of #{size} leave no caller without an answer, and no orphan",
         %{tmp_dir: marker} do
      faults_at_random(unquote(size), marker)
    end
  end

  defp faults_at_random(size, marker) do
    seed = seed!()
    File.write!(Path.join(marker, "chaos_leak.py"), @leak)

    pool =
      start_ready!(marker,
        size: size,
        standby: rem(size, 3),
        template: true,
        preload: ["chaos_leak"],
        max_memory: {:mb, 300},
        drain_timeout: 60_000
      )

    callers = ChaosCallers.start(pool, 15)
    # `make chaos` shares its rounds among the sizes.
    faults = max(div(rounds(8, 2), 8), 8)
    done = for _fault <- 1..faults, do: tap(fault(pool, marker), fn _ -> pause(700) end)
    text = "#{seed}, after #{inspect(done)}"
    seen = ChaosCallers.stop(callers, 180_000)

    allowed = [:none_started | @allowed]

    for {kind, verdict, _began, _ended} <- seen,
        do: assert(verdict in allowed, "#{kind} gave #{inspect(verdict)}, #{text}")

    assert Enum.any?(seen, &match?({_kind, :right, _began, _ended}, &1)), text
    assert eventually(fn -> whole?(pool) end), text
    # It is used, and not only there.
    for slot <- 1..size, do: assert(is_integer(python_of(pool, slot)))
    stop_supervised!(pool)
    eventually(fn -> marked(marker) == [] end)
  end

  defp pause(ms), do: Process.sleep(:rand.uniform(ms))

  # Returns what it has done.
  defp fault(pool, marker) do
    case Enum.random([:kill, :kill, :stop, :pause, :leak, :restart, :stream_restart]) do
      kill when kill in [:kill, :stop, :pause] ->
        # Any process: worker, launcher, template process, lifeline, spare.
        with pid when pid != nil <- random(marked(marker)) do
          what = {kill, name(pid)}
          broken(kill, pid)
          what
        end

      :leak ->
        # More than the limit, in one worker.
        spawn(fn -> for _ <- 1..8, do: leak(pool) end)
        :leak

      :restart ->
        spawn(fn -> Python.restart_pool(pool) end)
        :restart

      :stream_restart ->
        restart_in_stream(pool)
        :stream_restart
    end
  end

  defp random([]), do: nil
  defp random(pids), do: Enum.random(pids)

  defp name(pid) do
    with {:ok, name} <- File.read("/proc/#{pid}/comm"), do: String.trim(name)
  end

  # The process may have ended by now.
  defp broken(:kill, pid), do: send_signal(pid, "KILL")

  defp broken(:stop, pid) do
    send_signal(pid, "STOP")
    # A template process that is stopped is nobody's answer; it goes on some time.
    spawn(fn ->
      Process.sleep(5_000)
      send_signal(pid, "CONT")
    end)
  end

  defp broken(:pause, pid) do
    send_signal(pid, "STOP")
    pause(300)
    send_signal(pid, "CONT")
  end

  defp send_signal(pid, name),
    do: System.cmd("/bin/sh", ["-c", "kill -#{name} #{pid}"], stderr_to_stdout: true)

  # The pool is restarted while a stream runs, whose call ends in the old Python, or dies with another fault.
  defp restart_in_stream(pool) do
    words = for number <- 1..30, do: "w#{number} "
    text = ["[[ ## answer ## ]]\n"] ++ words ++ ["[[ ## completed ## ]]"]

    model = fn _request -> Stream.map(text, fn word -> Process.sleep(20) && word end) end

    elements =
      "dspy.Predict"
      |> Python.stream(@qa, "?", pool: pool, lm: {:elixir, model}, timeout: 60_000)
      |> Enum.map(fn element ->
        if match?({:chunk, "answer", "w5" <> _rest}, element),
          do: spawn(fn -> Python.restart_pool(pool) end)

        element
      end)

    case List.last(elements) do
      {:prediction, prediction} -> assert prediction[:answer] == String.trim(Enum.join(words))
      {:error, error} -> assert %Error{kind: :worker_died} = error
    end
  end

  defp leak(pool) do
    model = fn request ->
      if ScriptedModel.text(request) =~ "kept",
        do:
          ScriptedModel.written(
            next_thought: "done",
            next_tool_name: "finish",
            next_tool_args: %{},
            reasoning: "r",
            answer: "kept"
          ),
        else:
          ScriptedModel.written(next_thought: "t", next_tool_name: "leak", next_tool_args: %{})
    end

    Python.execute_module("dspy.ReAct", @qa, "?",
      pool: pool,
      lm: {:elixir, model},
      tools: ["leak"],
      timeout: 60_000
    )
  end
end
