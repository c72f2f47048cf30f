defmodule DSPex.Python.Pool.PoolTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.Call.{CallOptions, ModuleCalls, ProgramCalls}
  alias DSPex.Python.{Error, Pool}
  alias DSPex.Python.Port.{Connection, SendQueue}

  # How long a caller may have to wait after its timeout on a busy machine, where it takes milliseconds otherwise.
  @tolerance_ms 5_000

  describe "a running pool" do
    test "answers a thousand calls of a hundred callers, each with its own answer" do
      pool = start_pool!()

      answers =
        1..1_000
        |> Task.async_stream(&{&1, Python.ping(&1, pool: pool)},
          max_concurrency: 100,
          timeout: 30_000
        )
        |> Enum.map(fn {:ok, {number, {:ok, pong}}} -> number == pong["payload"] end)

      assert length(answers) == 1_000
      assert Enum.all?(answers)
    end

    test "forgets a dead caller" do
      pool = start_pool!(heartbeat: false)
      {:ok, _pong} = Python.ping(nil, pool: pool)
      signal(pool, "STOP")
      test = self()

      caller =
        spawn(fn ->
          send(test, :calling)
          Python.ping(nil, pool: pool)
        end)

      assert_receive :calling
      eventually(fn -> waiting(pool) == 1 end)
      Process.exit(caller, :kill)
      eventually(fn -> waiting(pool) == 0 end)
      assert eventually(fn -> :sys.get_state(client(pool)).caller_monitors.monitors == %{} end)
      signal(pool, "CONT")
      assert {:ok, _pong} = Python.ping(nil, pool: pool)
    end

    test "drops unknown messages" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)
      client = client(pool)
      port = :sys.get_state(client).port

      log =
        capture_log(fn ->
          for frame <- [:erlang.term_to_binary({:P, "printed"}), "noise", ""] do
            send(client, {port, {:data, frame}})
          end

          # A late answer: no process waits for it.
          send(client, {port, {:data, :erlang.term_to_binary({:r, 999_999, 1})}})
          send(client, :anything)
          assert {:ok, _pong} = Python.ping(nil, pool: pool)
        end)

      assert log =~ ~s|dropped a message "P" of python|
      assert log =~ "dropped 5 bytes that are no message"
      assert client(pool) == client
    end

    test "ends its Python when it is stopped, and answers pending calls" do
      options = [python: interpreter(), model: :embedded, stop_timeout: 100, heartbeat: false]
      {:ok, _pool} = Python.start_pool(:to_be_stopped, options)
      {:ok, _pong} = Python.ping(nil, pool: :to_be_stopped)
      python = os_pid(:to_be_stopped)
      signal(:to_be_stopped, "STOP")
      call = Task.async(fn -> Python.ping(nil, pool: :to_be_stopped) end)
      eventually(fn -> waiting(:to_be_stopped) == 1 end)

      assert :ok = Python.stop_pool(:to_be_stopped)
      assert {:error, %Error{kind: :port_closed, message: message}} = Task.await(call, 30_000)

      assert message ==
               "pool :to_be_stopped was stopped while the call was being made; it was given 100 ms to end"

      # Also a stopped one.
      eventually(fn -> not alive?(python) end)
      assert {:error, %Error{kind: :pool_not_found}} = Python.ping(nil, pool: :to_be_stopped)
      assert {:error, %{kind: :pool_not_found}} = Python.stop_pool(:to_be_stopped)
      assert Connection.of(:to_be_stopped, 1) == nil
    end

    test "cannot be started twice under one name" do
      pool = start_pool!()
      assert {:error, {:already_started, _pid}} = Pool.start_link(name: pool)
    end
  end

  describe "deadlines" do
    test "are kept when Python does not answer; its late answer is dropped" do
      pool = start_pool!(heartbeat: false)
      {:ok, _pong} = Python.ping(nil, pool: pool)
      signal(pool, "STOP")

      {result, duration_ms} = timed(fn -> Python.ping(:late, pool: pool, timeout: 300) end)
      assert {:error, %Error{kind: :timeout, stage: "python", retryable: true} = error} = result
      assert error.message == "no answer within 300 ms: python has not answered"
      assert duration_ms >= 300
      assert duration_ms <= 300 + @tolerance_ms

      signal(pool, "CONT")
      assert {:ok, %{"payload" => :next}} = Python.ping(:next, pool: pool)
    end

    test "are kept while 200 callers keep Python busy" do
      pool = start_pool!()

      predict =
        &Python.execute_module("dspy.Predict", "question -> answer", "?", [pool: pool] ++ &1)

      {:ok, _prediction} = predict.([])

      for number <- 1..200 do
        busy = fn -> Stream.repeatedly(fn -> predict.(timeout: 60_000) end) |> Stream.run() end
        start_supervised!(Supervisor.child_spec({Task, busy}, id: {:busy, number}))
      end

      eventually(fn -> waiting(pool) >= 200 end)

      # Hardly any of these calls can have its answer in time; one that has it keeps its deadline too.
      results = for _ <- 1..5, do: timed(fn -> predict.(timeout: 20) end)

      for {result, duration_ms} <- results do
        with {:error, error} <- result, do: assert(error.kind == :timeout)
        assert duration_ms <= 20 + @tolerance_ms
      end
    end

    test "are kept when Python does not read and the pipe is full" do
      pool = start_pool!(heartbeat: false)
      {:ok, _pong} = Python.ping(nil, pool: pool)
      signal(pool, "STOP")
      payload = :binary.copy("x", 1024 * 1024)

      calls =
        for _ <- 1..20 do
          Task.async(fn -> timed(fn -> Python.ping(payload, pool: pool, timeout: 500) end) end)
        end

      results = Task.await_many(calls, 30_000)
      for {_result, duration_ms} <- results, do: assert(duration_ms <= 500 + @tolerance_ms)

      stages =
        for {{:error, %Error{kind: :timeout, stage: stage}}, _duration_ms} <- results, do: stage

      assert length(stages) == 20
      # A call that the port never took is not sent any more.
      assert "send" in stages

      signal(pool, "CONT")
      assert {:ok, %{"payload" => :next}} = Python.ping(:next, pool: pool)
      assert SendQueue.count(:sys.get_state(client(pool)).send_queue) == 0
    end

    test "are kept while Python is being started" do
      pool = start_pool!()
      {result, duration_ms} = timed(fn -> Python.ping(nil, pool: pool, timeout: 20) end)
      assert {:error, %Error{kind: :timeout, stage: "start"}} = result
      assert duration_ms <= 20 + @tolerance_ms
      assert {:ok, _pong} = Python.ping(nil, pool: pool)
    end

    test "may be :infinity" do
      pool = start_pool!()
      assert {:ok, _pong} = Python.ping(nil, pool: pool, timeout: :infinity)
    end
  end

  describe "the pool's folder and modules" do
    @describetag :tmp_dir

    test "are there for Python", %{tmp_dir: folder} do
      File.write!(Path.join(folder, "offered_tools.py"), """
      from erlport_bridge.programs.tools import offer

      @offer
      def stock(article: str) -> int:
          "How many pieces of an article are in stock."
          return 7
      """)

      pool = start_pool!(python_path: [folder], preload: ["offered_tools"])

      assert {:ok, %{"tools" => %{"stock" => description}}} =
               Python.describe_module("dspy.ReAct", pool: pool)

      assert description =~ "How many pieces"
    end
  end

  describe "a missing pool" do
    test "is an error with the remedy" do
      assert {:error, %Error{kind: :pool_not_found} = error} = Python.ping(nil, pool: :nonesuch)

      assert error.message =~
               "there is no pool :nonesuch; write config :dspex, DSPex.Python, pools: [nonesuch: ["

      assert error.message =~ ":general"
    end

    test "is told alike by each function, with the name that may be meant" do
      for call <- [&Python.await_pools([&1], 1_000), &Python.list_modules(pool: &1)] do
        assert {:error, %Error{kind: :pool_not_found} = error} = call.(:genral)
        assert error.message =~ "there is no pool :genral (did you mean :general?); write config"
        assert error.message =~ ~r/ or use one of: .*:general/
      end

      # They were told to write a configuration, which makes no sense of a pool that is to be stopped.
      for look <- [
            &Python.stop_pool/1,
            &Python.restart_pool/1,
            &Python.drain_pool/1,
            &Python.cancel("some request", pool: &1),
            &Python.metrics(pool: &1),
            &Python.reset_metrics(pool: &1),
            &Python.list_sessions(pool: &1),
            &Python.list_budgets(pool: &1),
            &Python.list_programs(pool: &1),
            &Python.list_programs(nil, pool: &1),
            &Python.inspect_history(pool: &1)
          ] do
        assert {:error, %Error{kind: :pool_not_found} = error} = look.(:genral)

        assert error.message =~
                 ~r/^there is no pool :genral on this node \(did you mean :general\?\); the pools are: .*:general/
      end
    end

    # Of `pol: :reports`, functions whose options Python checks said only that there is no pool :general.
    test "that the call does not name may be that of a misspelt option" do
      predict = ["dspy.Predict", "question -> answer"]
      examples = [%{question: "Why?", answer: "x"}]
      metric = "exact_match"

      for {module, function, args} <- [
            {ModuleCalls, :validate, predict},
            {ModuleCalls, :execute, predict ++ ["Why?"]},
            {ModuleCalls, :stream, predict ++ ["Why?"]},
            {ModuleCalls, :execute_batch, predict ++ [["Why?"]]},
            {ModuleCalls, :stream_batch, predict ++ [["Why?"], 10]},
            {ProgramCalls, :execute, ["p", "Why?"]},
            {ProgramCalls, :stream, ["p", "Why?"]},
            {ProgramCalls, :execute_batch, ["p", ["Why?"]]},
            {ProgramCalls, :stream_batch, ["p", ["Why?"], 10]},
            {ProgramCalls, :evaluate, ["p", examples, metric]},
            {ProgramCalls, :stream_evaluate, ["p", examples, metric]},
            {ProgramCalls, :compile, ["p", examples]},
            {ProgramCalls, :stream_compile, ["p", examples]}
          ] do
        # As if there were no pool of the default name.
        call = fn given ->
          options = %{CallOptions.new!(given) | pool: :nonesuch}
          first_error(apply(module, function, args ++ [options]))
        end

        assert {:error, %Error{kind: :pool_not_found} = error} = call.(pol: :reports)

        assert {function, error.path, error.details["path"]} ==
                 {function, "opts.pol", "opts.pol"}

        assert error.message =~ ~r/^there is no pool :nonesuch; write config .*:general/

        assert String.ends_with?(
                 error.message,
                 "; the call names no pool (did you mean :pool by :pol?)"
               )

        for given <- [[], [tools: []], [pool: :nonesuch, pol: 1]] do
          assert {:error, %Error{kind: :pool_not_found, path: nil} = error} = call.(given)
          refute error.message =~ "names no pool"
        end
      end
    end

    defp first_error({:error, _error} = error), do: error

    defp first_error(stream) do
      case Enum.to_list(stream) do
        [{:error, _error} = error | _rest] -> error
        [{0, error} | _rest] -> error
      end
    end

    test "is none of what is no name, in a list, as an option and as an argument" do
      # Of `nil` it was "there is no pool nil; write config …, pools: [nil: …", of a text "…; or use one of", and {:cluster, nil} was
      # waited for.
      for name <- [nil, true, "general", 1, [:general], {:cluster, nil}, {:cluster, "general"}] do
        assert {:error, %Error{kind: :pool_not_found} = error} =
                 Python.await_pools([:general, name], 1_000)

        expected =
          &"expected #{&1} got #{inspect(name)}#{if name == "general", do: " (did you mean :general?)"}; the pools are: "

        assert error.message =~ expected.("the name of a pool, an atom, or {:cluster, name},")

        for call <- [&Python.metrics/1, &Python.list_budgets/1, &Python.list_modules/1] do
          error = assert_raise ArgumentError, fn -> call.(pool: name) end

          assert error.message =~
                   expected.(":pool to be a pool's name, an atom, or {:cluster, name},")
        end

        for look <- [&Python.stop_pool/1, &Python.restart_pool/1, &Python.drain_pool/1] do
          assert {:error, %Error{kind: :pool_not_found} = error} = look.(name)
          assert error.message =~ expected.("the name of a pool of this node, an atom,")
        end

        for look <- [&Python.status([&1]), &Python.top(pools: [&1], frames: 0)] do
          error = assert_raise ArgumentError, fn -> look.(name) end
          assert error.message =~ expected.("the name of a pool of this node, an atom,")
        end
      end
    end

    test "is none of what is no list of names" do
      hint = "; Enum.to_list/1 makes a list of it"

      # The improper list was a FunctionClauseError.
      for {pools, hint} <- [
            {:general, ""},
            {nil, ""},
            {[:general | :more], ""},
            {MapSet.new([:general]), hint},
            {Stream.map([:general], & &1), hint}
          ],
          look <- [&Python.await_pools/1, &Python.status/1, &Python.top(pools: &1, frames: 0)] do
        error = assert_raise ArgumentError, fn -> look.(pools) end
        assert error.message =~ "expected a list of names of pools, or :all, got "
        assert String.ends_with?(error.message, inspect(pools, limit: 5) <> hint)
      end
    end
  end

  test "the error of an unknown program or session names the pool, and how to see those that there are" do
    pool = start_pool!()
    assert {:error, error} = Python.execute_program("none", %{question: "x"}, pool: pool)
    assert error.kind == :program_not_found
    assert error.message =~ ~r/^unknown program "none"; Python was started/
    assert error.message =~ ~r/; list_programs shows .* \(in the pool #{inspect(pool)}\)$/

    assert {:error, error} = Python.session_info("none", pool: pool)
    assert error.kind == :session_not_found
    assert error.message =~ "(in the pool #{inspect(pool)})"
    assert Python.list_programs(pool: pool) == {:ok, []}
    assert Python.list_programs!(pool: pool) == []
  end

  describe "the pool's model" do
    test "that is missing is an error with the remedy" do
      pool = start_pool!(model: nil)
      assert {:ok, _pong} = Python.ping(nil, pool: pool)

      assert {:error, error} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)

      assert error.kind == :lm_not_configured

      assert error.message =~
               "pool #{inspect(pool)} has no language model; write config :dspex, DSPex.Python, pools: [#{pool}: [model: "

      assert error.message =~
               "call DSPex.Python.configure_lm with pool: #{inspect(pool)}, or give the call a model with lm:"

      assert Pool.PoolModel.state(pool) == {:ok, :none}
      assert {:ok, _model} = Python.configure_lm(:embedded, %{}, pool: pool)
      assert Pool.PoolModel.state(pool) == {:ok, :configured}

      assert {:ok, _prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)
    end

    test "is an error of the calls that need it, if it cannot be configured" do
      for {model, kind, part} <- [
            {{:no_such_provider, model: "m"}, :provider, "no_such_provider"},
            {{:openai, model: "m", api_key: {:system, "DSPEX_NOT_SET"}}, :lm_not_configured,
             "DSPEX_NOT_SET"},
            {{:openai, model: "m", modle: "x"}, :input, "modle"}
          ] do
        pool = start_pool!(model: model)
        assert {:ok, _names} = Python.list_modules(pool: pool)

        assert {:error, error} =
                 Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)

        assert {error.kind, error.message =~ part} == {kind, true}
      end
    end

    test "does not appear with its key in logs, states and errors" do
      key = "sk-secret-5d1f"

      model =
        {:openai, model: "m", api_key: key, api_base: "http://127.0.0.1:9/v1", num_retries: 0}

      log =
        capture_log(fn ->
          pool = start_pool!(model: model, heartbeat: false)
          {:ok, _pong} = Python.ping(nil, pool: pool)
          {:ok, _configured} = Python.configure_lm(:openai, elem(model, 1), pool: pool)

          {:error, error} =
            Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)

          [{supervisor, _value}] = Registry.lookup(DSPex.Python.Registry, {:pool, pool})

          shown = [
            inspect(error, structs: false, limit: :infinity),
            inspect(:sys.get_status(client(pool)), structs: false, limit: :infinity),
            inspect(:sys.get_state(client(pool)), structs: false, limit: :infinity),
            inspect(:sys.get_state(supervisor), structs: false, limit: :infinity),
            to_string(:io_lib.format("~tp", [:sys.get_state(supervisor)]))
          ]

          for text <- shown, do: refute(text =~ key)

          # The owner crashes while a request with the key is in the queue.
          signal(pool, "STOP")
          call = Task.async(fn -> Python.configure_lm(:openai, elem(model, 1), pool: pool) end)
          # A call that is not sent yet goes to the next Python.
          eventually(fn -> sent(pool) == 1 end)

          signal(pool, "KILL")
          assert {:error, %Error{kind: :worker_died} = error} = Task.await(call, 30_000)
          refute inspect(error, structs: false) =~ key
          {:ok, _pong} = Python.ping(nil, pool: pool)
        end)

      assert log =~ "was killed by signal 9"
      refute log =~ key
    end
  end
end
