defmodule DSPex.Python.Pool.WorkersTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Python}
  alias DSPex.Python.{Error, ScriptedModel}
  alias DSPex.Python.Port.{Names, Slots}

  @qa "question -> answer"

  defp ask(pool, options \\ []),
    do: Python.execute_module("dspy.Predict", @qa, "Why?", [pool: pool] ++ options)

  defp start_ready!(options) do
    pool = start_pool!(options)
    assert Python.await_pools([pool]) == :ok
    pool
  end

  defp worker({:ok, prediction}), do: prediction.meta["worker"]

  # Begins a call whose model answers when the process that asks it is told to.
  defp hold(pool, options \\ []) do
    test = self()

    model = fn _request ->
      send(test, {:asked, self()})
      receive do: (:go_on -> ScriptedModel.written(answer: "held"))
    end

    call = Task.async(fn -> ask(pool, [lm: {:elixir, model}, timeout: 60_000] ++ options) end)
    assert_receive {:asked, model}, 30_000
    {call, model}
  end

  defp let_go({call, model}) do
    send(model, :go_on)
    Task.await(call, 60_000)
  end

  describe "a worker that is silent" do
    setup do
      # Nothing but the calls finds out.
      pool = start_ready!(size: 2, standby: 0, heartbeat: false, max_in_flight: 1)
      {:ok, %{meta: %{"worker" => number, "pid" => pid}}} = ask(pool)
      signal_process(pid, "STOP")
      assert {:error, %Error{kind: :timeout}} = ask(pool, timeout: 500)
      {:ok, pool: pool, number: number, pid: pid}
    end

    test "gets no calls until it has sent something", %{pool: pool, number: number, pid: pid} do
      # An idle worker has the fewest calls in flight.
      for _ <- 1..10, do: refute(worker(ask(pool, timeout: 30_000)) == number)
      signal_process(pid, "CONT")
      eventually(fn -> worker(ask(pool)) == number end)
    end

    test "gets no calls that wait for room either", %{pool: pool, number: number} do
      held = hold(pool)
      waiting = Task.async(fn -> ask(pool, timeout: 30_000) end)
      assert Task.yield(waiting, 300) == nil
      refute worker(let_go(held)) == number
      refute worker(Task.await(waiting, 60_000)) == number
    end

    test "gets calls when all others are silent too", %{pool: pool, number: number, pid: pid} do
      {:ok, %{meta: %{"pid" => other}}} = ask(pool)
      signal_process(other, "STOP")
      for _ <- 1..3, do: assert({:error, %Error{kind: :timeout}} = ask(pool, timeout: 300))
      signal_process(pid, "CONT")

      eventually(fn ->
        match?({:ok, %{meta: %{"worker" => ^number}}}, ask(pool, timeout: 5_000))
      end)

      signal_process(other, "CONT")
    end
  end

  # Each was the result of the others, as if it were that of all.
  describe "a worker that does not answer" do
    setup do
      pool = start_ready!(size: 2, standby: 0, heartbeat: false)
      calls = for _ <- 1..4, do: hold(pool, request_id: "r")

      {:ok, %{"workers" => [%{"worker" => number, "pid" => pid}, other]}} =
        Python.metrics(pool: pool)

      signal_process(pid, "STOP")
      {:ok, pool: pool, number: number, pid: pid, other: other["worker"], calls: calls}
    end

    test "is named by what is about all workers", %{pool: pool, number: number} = context do
      # The other one may take its time on a busy machine.
      ask = fn look ->
        at_deadline(500, &look.(pool: pool, timeout: &1), &match?([_one], unanswered(&1)))
      end

      for look <- [
            &Python.running_calls/1,
            &Python.list_sessions/1,
            &Python.list_programs(nil, &1),
            &Python.history/1,
            &Python.inspect_history/1,
            &Python.cancel("r", &1)
          ] do
        {result, ms} = ask.(look)
        assert {:error, %Error{kind: :timeout, retryable: true} = error} = result
        assert error.message =~ "worker #{number} did not answer: no answer within #{ms} ms"
        assert [%{"worker" => ^number, "error" => %{"kind" => "timeout"}}] = unanswered(result)
      end

      {{:error, error}, _ms} = ask.(&Python.cancel("r", &1))
      # By the call before.
      assert %{"cancelled" => 0} = error.details

      assert error.message =~
               "; calls that run there may go on; the other workers have cancelled 0"

      for count <- [&Python.metrics/1, &Python.reset_metrics/1] do
        {result, _ms} = ask.(count)
        assert {:ok, %{"workers" => [%{"worker" => other}]}} = result
        assert other == context.other
        assert [%{"worker" => ^number, "error" => %{"kind" => "timeout"}}] = unanswered(result)
      end

      signal_process(context.pid, "CONT")
      eventually(fn -> match?({:ok, %{"unanswered" => []}}, Python.metrics(pool: pool)) end)
      assert {:ok, _calls} = Python.running_calls(pool: pool)
    end

    defp unanswered({:ok, metrics}), do: metrics["unanswered"]
    defp unanswered({:error, error}), do: error.details["unanswered"]

    test "and has died has no part in it", %{pool: pool, other: other} = context do
      asked = Task.async(fn -> Python.running_calls(pool: pool, timeout: 60_000) end)
      assert Task.yield(asked, 300) == nil
      capture_log(fn -> signal_process(context.pid, "KILL") end)
      assert {:ok, calls} = Task.await(asked, 60_000)
      assert Enum.uniq(Enum.map(calls, & &1["worker"])) == [other]
    end
  end

  describe "a pool of several workers" do
    setup do
      {:ok, pool: start_ready!(size: 3)}
    end

    test "gives each call to the worker with the fewest calls in flight", %{pool: pool} do
      held = for _ <- 1..6, do: hold(pool)
      workers = Enum.map(held, &worker(let_go(&1)))
      assert workers |> Enum.frequencies() |> Map.values() == [2, 2, 2]
    end

    test "keeps the calls of one session together, and shows all sessions", %{pool: pool} do
      programs =
        for number <- 1..9 do
          session = "session #{number}"
          {:ok, program} = Python.create_program(@qa, pool: pool, session_id: session)
          program
        end

      for program <- programs do
        workers = for _ <- 1..3, do: worker(Python.execute_program(program, "Why?"))
        assert [_one] = Enum.uniq(workers)
      end

      assert {:ok, sessions} = Python.list_sessions(pool: pool)
      assert Enum.sort(Enum.map(sessions, & &1["id"])) == for(n <- 1..9, do: "session #{n}")
      assert {:ok, all} = Python.list_programs(nil, pool: pool)
      assert length(all) == 9

      for format <- [:native, :json] do
        assert {:ok, [%{"id" => id}]} =
                 Python.list_programs("session 4", pool: pool, serialization_format: format)

        assert id == Enum.at(programs, 3).id
        assert {:ok, %{"id" => "session 4"}} = Python.session_info("session 4", pool: pool)
      end
    end

    test "finds a program that was created without a session, also by its id alone", %{pool: pool} do
      for _ <- 1..9 do
        {:ok, program} = Python.create_program(@qa, pool: pool)
        assert {:ok, one} = Python.execute_program(program, "Why?")
        assert {:ok, other} = Python.execute_program(program.id, "Why?", pool: pool)
        assert one.meta["worker"] == other.meta["worker"]
        {:ok, text} = Python.dump_program(program.id, pool: pool)
        {:ok, loaded} = Python.load_program(text, pool: pool)
        assert {:ok, _prediction} = Python.execute_program(loaded, "Why?")
      end
    end

    test "has one model, also for workers that are started later", %{pool: pool} do
      mine = fn _request -> ScriptedModel.written(answer: "mine") end
      assert {:ok, _model} = Python.configure_lm(:elixir, [function: mine], pool: pool)

      for slot <- 1..3 do
        assert {:ok, %{"model" => %{"model" => "elixir/function"}}} = ping_slot(pool, slot)
      end

      capture_log(fn ->
        for slot <- 1..3, do: kill(pool, slot)
        assert Python.await_pools([pool]) == :ok
      end)

      answers = for _ <- 1..12, do: ask(pool)
      for answer <- answers, do: assert({:ok, %{fields: %{"answer" => "mine"}}} = answer)
    end

    # Workers had different models: one that was configuring a model did not take the next one, and the first one had the model of
    # the call that Python had last, not of the one that was kept. Later, a change that one call had asked of the first worker came
    # after the call of another one, which took itself for the last: the function of the model was not there any more.
    test "has one model after several were configured at the same time", %{pool: pool} do
      for round <- 1..30 do
        configurings =
          for number <- 1..8 do
            model = fn _request -> ScriptedModel.written(answer: "of #{number}") end

            Task.async(fn ->
              # All at once, or one while others are still at it.
              if rem(round, 5) != 0, do: Process.sleep(:rand.uniform(25))
              Python.configure_lm(:elixir, [function: model], pool: pool)
            end)
          end

        for configuring <- configurings,
            do: assert({:ok, _model} = Task.await(configuring, 60_000))

        assert [_one] = (answers(pool, 2) ++ answers(pool, 2)) |> Enum.uniq()
      end
    end

    test "adds up the metrics, and shows each worker's", %{pool: pool} do
      {:ok, _metrics} = Python.reset_metrics(pool: pool)
      held = for _ <- 1..6, do: hold(pool)
      for one <- held, do: assert({:ok, _prediction} = let_go(one))

      for format <- [:native, :json] do
        assert {:ok, metrics} = Python.metrics(pool: pool, serialization_format: format)
        assert metrics["modules"]["dspy.Predict"]["calls"] == 6
        durations = metrics["modules"]["dspy.Predict"]["duration_ms"]
        assert durations["p50"] <= durations["p99"] and durations["p99"] <= durations["max"]
        refute Map.has_key?(durations, "buckets")
        assert length(metrics["workers"]) == 3

        assert for(one <- metrics["workers"], do: one["modules"]["dspy.Predict"]["calls"]) == [
                 2,
                 2,
                 2
               ]

        assert %{"size" => 3, "queued" => 0, "overloaded" => 0} = metrics["pool"]
      end
    end

    test "lists the running calls of all, the oldest first, with their workers", %{pool: pool} do
      held = for number <- 1..6, do: hold(pool, request_id: "r#{number}", caller: "acme")

      for format <- [:native, :json] do
        options = [pool: pool, serialization_format: format]
        assert {:ok, calls} = Python.running_calls(options)
        assert Enum.map(calls, & &1["request_id"]) == for(number <- 1..6, do: "r#{number}")

        assert [%{"operation" => "execute_module", "stage" => "model", "caller" => "acme"} | _] =
                 calls

        assert calls == Enum.sort_by(calls, & &1["at_ms"])
        assert Enum.all?(calls, &(&1["age_ms"] > 0))
        workers = Enum.frequencies_by(calls, & &1["worker"])
        assert {map_size(workers), Map.values(workers)} == {3, [2, 2, 2]}

        assert {:ok, [%{"request_id" => "r1"}, %{"request_id" => "r2"}]} =
                 Python.running_calls([n: 2] ++ options)

        assert {:error, %Error{kind: :input, path: "opts.n"}} =
                 Python.running_calls([n: 0] ++ options)
      end

      for one <- held, do: assert({:ok, _prediction} = let_go(one))
      assert Python.running_calls(pool: pool) == {:ok, []}
    end

    test "says of each request which worker has made it", %{pool: pool} do
      held = for _ <- 1..3, do: hold(pool)
      for one <- held, do: {:ok, _prediction} = let_go(one)
      {:ok, requests} = Python.history(pool: pool, n: 3)
      assert requests |> Enum.map(& &1["worker"]) |> Enum.sort() == [1, 2, 3]
    end

    test "cancels a call wherever it runs", %{pool: pool} do
      held = for number <- 1..3, do: hold(pool, request_id: "r#{rem(number, 2)}")
      assert Python.cancel("r1", pool: pool) == {:ok, 2}
      assert Python.cancel("r0", pool: pool) == {:ok, 1}

      for {call, _model} <- held,
          do: assert({:error, %Error{kind: :cancelled}} = Task.await(call, 30_000))
    end

    test "streams from any worker, with back-pressure", %{pool: pool} do
      held = for _ <- 1..2, do: hold(pool)
      pieces = for number <- 1..40, do: "word#{number} "
      model = fn _request -> ["[[ ## answer ## ]]\n" | pieces] ++ ["\n[[ ## completed ## ]]"] end

      for _ <- 1..3 do
        stream =
          Python.stream("dspy.Predict", @qa, "Why?", pool: pool, lm: {:elixir, model}, buffer: 2)

        text = for {:chunk, "answer", text} <- stream, into: "", do: text
        assert String.trim(text) == pieces |> Enum.join() |> String.trim()
      end

      for one <- held, do: assert({:ok, _prediction} = let_go(one))
    end

    test "replaces one worker after the other when it is restarted", %{pool: pool} do
      before = for slot <- 1..3, do: elem(ping_slot(pool, slot), 1)["pid"]

      capture_log(fn ->
        assert Python.restart_pool(pool) == :ok
        assert Python.await_pools([pool]) == :ok
      end)

      now = for slot <- 1..3, do: elem(ping_slot(pool, slot), 1)["pid"]
      assert MapSet.disjoint?(MapSet.new(before), MapSet.new(now))
      eventually(fn -> Enum.all?(before, &(not alive?(&1))) end)
      # Three workers and the spare.
      eventually(fn -> owners(pool) == 4 end)
    end
  end

  @tag :tmp_dir
  test "a model is configured within the timeout while a worker starts, which gets it then",
       %{tmp_dir: folder} do
    # The second Python waits for a file.
    File.write!(Path.join(folder, "slow_second.py"), """
    import os, sys, time
    go = os.path.join(os.path.dirname(__file__), "go")
    while "--worker=2" in sys.argv and not os.path.exists(go):
        time.sleep(0.01)
    """)

    options = [size: 2, standby: 0, template: false, python_path: [folder]]
    pool = start_pool!([preload: ["slow_second"], model: nil] ++ options)
    assert {:ok, _pong} = Python.ping(nil, pool: pool)
    model = fn _request -> ScriptedModel.written(answer: "configured") end

    {result, ms} =
      timed(fn -> Python.configure_lm(:elixir, [function: model], pool: pool, timeout: 2_000) end)

    assert {:ok, _model} = result
    # The start itself would end after a minute.
    assert ms < 30_000
    File.touch!(Path.join(folder, "go"))
    assert answers(pool, 2) == ["configured"]
  end

  test "a spare has run a prediction before its first call, and a worker that is waited for has not" do
    pool = start_ready!(size: 2)
    spare = spare(pool)

    for {number, owner, _worker} <- Names.workers(pool) do
      command = File.read!("/proc/#{launcher(owner)}/cmdline")
      assert String.contains?(command, "--worker=#{number}")
      assert String.contains?(command, "--warm-up") == (owner == spare)
    end
  end

  defp spare(pool), do: eventually(fn -> Slots.ready_spare(pool) end)

  defp launcher(owner) do
    {:os_pid, os_pid} = Port.info(:sys.get_state(owner).port, :os_pid)
    os_pid
  end

  # Python has the call when it goes on, and had the new model, whose function was not there: each further call was an error. If the
  # caller was killed, the first worker had another model than the others, with functions that nobody ended.
  for size <- [1, 2], ends <- [:timeout, :kill] do
    test "a pool of #{size} keeps its model after a configure_lm that ends early by #{ends}" do
      pool = start_ready!(size: unquote(size), heartbeat: [stopped: false])

      model = fn answer ->
        [function: fn _request -> ScriptedModel.written(answer: answer) end]
      end

      {:ok, _model} = Python.configure_lm(:elixir, model.("first"), pool: pool)
      {:ok, %{"pid" => pid}} = ping_slot(pool, 1)
      signal_process(pid, "STOP")

      case unquote(ends) do
        :timeout ->
          assert {:error, %Error{kind: :timeout}} =
                   Python.configure_lm(:elixir, model.("second"), pool: pool, timeout: 300)

        :kill ->
          caller = spawn(fn -> Python.configure_lm(:elixir, model.("second"), pool: pool) end)
          Process.sleep(300)
          Process.exit(caller, :kill)
      end

      signal_process(pid, "CONT")
      eventually(fn -> answers(pool, unquote(size)) == ["first"] end)
      # Later changes are as ever.
      {:ok, _model} = Python.configure_lm(:elixir, model.("third"), pool: pool)
      assert answers(pool, unquote(size)) == ["third"]
    end
  end

  # What all workers answer.
  defp answers(pool, size) do
    args = ["dspy.Predict", @qa, %{"question" => "?"}, %{}]

    for slot <- 1..size, uniq: true do
      {:ok, result} = Python.Pool.call(pool, :execute_module, args, 60_000, route: {:slot, slot})

      with {:ok, prediction} <- result, do: prediction["answer"]
    end
  end

  describe "a worker that dies" do
    test "costs its own calls only, and a spare takes its place" do
      pool = start_ready!(size: 2, standby: 1)
      spare = spare(pool)
      held = for _ <- 1..4, do: hold(pool)
      {:ok, %{"pid" => pid}} = ping_slot(pool, 1)

      capture_log(fn ->
        :ok = signal_process(pid, "KILL")
        eventually(fn -> match?({^spare, _model}, Names.lookup(:slot, {pool, 1})) end)
        assert {:ok, _pong} = ping_slot(pool, 1)

        results = Enum.map(held, &let_go/1)
        {died, answered} = Enum.split_with(results, &match?({:error, _error}, &1))
        assert [2, 2] = Enum.map([died, answered], &length/1)

        for {:error, error} <- died do
          assert %Error{kind: :worker_died, retryable: true} = error
          assert %{"sent" => true, "asked" => true, "called" => true} = error.details
        end

        assert [_other] = answered |> Enum.map(&worker/1) |> Enum.uniq()
        eventually(fn -> owners(pool) == 3 and spare_ready?(pool) end)
      end)

      assert {:ok, %{"pool" => %{"died" => 1, "started" => 4}}} = Python.metrics(pool: pool)
    end

    test "has its calls made again with retry: :safe, unless others have seen something" do
      url = ModelServer.start!()
      pool = start_ready!(size: 2, standby: 1)
      # It answers only the second time.
      replies = [%{delay_ms: 120_000}, %{fields: %{answer: "again"}}]
      ModelServer.script!(url, "second", replies)
      second = ModelServer.model(url, "scripted:second")
      never = ModelServer.model(url, "delay-120000")
      test = self()

      sleeps = fn _request ->
        send(test, :called)
        Process.sleep(60_000)
      end

      # What is asked, and how it is known that the call has got so far.
      calls = [
        {[lm: second, retry: :safe], &(asked?(pool, &1) and received?(url, 1)), :answered},
        {[lm: never], &(asked?(pool, &1) and received?(url, 3)), :worker_died},
        {[lm: {:elixir, sleeps}, retry: :safe], &(called?() and asked?(pool, &1)), :worker_died}
      ]

      capture_log(fn ->
        for {options, begun?, expected} <- calls do
          call = Task.async(fn -> ask(pool, [timeout: 60_000] ++ options) end)
          slot = eventually(fn -> Enum.find(1..2, begun?) end)
          {:ok, %{"pid" => pid}} = ping_slot(pool, slot)
          :ok = signal_process(pid, "KILL")

          case Task.await(call, 60_000) do
            {:ok, _prediction} -> assert expected == :answered
            {:error, error} -> assert error.kind == expected
          end

          :ok = Python.await_pools([pool])
        end
      end)

      assert {:ok, %{"pool" => %{"retried" => 1}}} = Python.metrics(pool: pool)
    end

    test "has its turns stored once, also those that it had stored before it died" do
      pool = start_ready!(size: 2, standby: 1, retry: :safe)

      {:ok, program} =
        Python.create_program(%{signature: "question -> answer", history: true}, pool: pool)

      # A conversation keeps its last 50 turns.
      conversation = fn user, number -> "user-#{user}-#{div(number, 30)}" end

      answered = :counters.new(4, [])

      told = fn user ->
        for number <- 0..149 do
          options = [conversation: conversation.(user, number)]
          answer = Python.execute_program(program, "Q#{number}", options)
          :counters.add(answered, user, 1)
          answer
        end
      end

      # Until then a call may be in flight that the last kill has hit: it is made again once, not twice.
      goes_on? = fn user, before -> :counters.get(answered, user) >= min(before + 3, 150) end

      capture_log(fn ->
        users = for user <- 1..4, do: Task.async(fn -> told.(user) end)

        for number <- 1..4 do
          kill(pool, rem(number, 2) + 1)
          :ok = Python.await_pools([pool])
          seen = for user <- 1..4, do: {user, :counters.get(answered, user)}
          for {user, before} <- seen, do: eventually(fn -> goes_on?.(user, before) end)
        end

        for answers <- Task.await_many(users, 120_000),
            answer <- answers,
            do: assert({:ok, _prediction} = answer)
      end)

      for user <- 1..4, first <- 0..149//30 do
        {:ok, %{"turns" => turns}} = Python.conversation(program, conversation.(user, first))
        asked = for turn <- turns, do: turn["question"]
        assert asked == for(number <- first..(first + 29), do: "Q#{number}")
      end
    end
  end

  # Tells whether the model function has been called; the message stays for the next time.
  defp called? do
    {:messages, messages} = Process.info(self(), :messages)
    :called in messages
  end

  # Tells whether the server has so many requests: Python counts one before it has sent it.
  defp received?(url, count), do: length(ModelServer.requests(url)) == count

  # Tells whether a call in the slot has reached its model.
  defp asked?(pool, slot) do
    case DSPex.Python.Pool.call(pool, :metrics, [], 30_000, route: {:slot, slot}) do
      {:ok, {:ok, %{"models" => models}}} ->
        Enum.any?(models, fn {_name, counts} -> counts["in_flight"] > 0 end)

      _restarting ->
        false
    end
  end

  defp ping_slot(pool, slot) do
    with {:ok, {:ok, pong}} <-
           DSPex.Python.Pool.call(pool, :ping, [nil], 30_000, route: {:slot, slot}),
         do: {:ok, pong}
  end

  defp kill(pool, slot) do
    # It may be starting.
    {:ok, %{"pid" => pid}} =
      eventually(fn -> with {:error, _starting} <- ping_slot(pool, slot), do: nil end)

    :ok = signal_process(pid, "KILL")
    eventually(fn -> not alive?(pid) end)
  end

  defp spare_ready?(pool), do: DSPex.Python.Port.Slots.ready_spare(pool) != nil
end
