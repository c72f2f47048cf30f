defmodule DSPex.Python.PoolTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.Python
  alias DSPex.Python.{Error, Pool}

  # What a caller may have to wait beyond its timeout.
  @tolerance_ms 200

  describe "a pool that is there" do
    test "answers a thousand calls from a hundred callers, each with its own" do
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

    test "forgets a caller that died" do
      pool = start_pool!()
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
      assert :sys.get_state(client(pool)).calls.id_of_monitor == %{}
      signal(pool, "CONT")
      assert {:ok, _pong} = Python.ping(nil, pool: pool)
    end

    test "drops messages that it does not know" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)
      client = client(pool)
      port = :sys.get_state(client).port

      log =
        capture_log(fn ->
          for frame <- [:erlang.term_to_binary({:M, self(), 1}), "noise", ""] do
            send(client, {port, {:data, frame}})
          end

          # Late: nobody waits for it.
          send(client, {port, {:data, :erlang.term_to_binary({:r, 999_999, 1})}})
          send(client, :anything)
          assert {:ok, _pong} = Python.ping(nil, pool: pool)
        end)

      assert log =~ ~s|dropped a message "M" of python|
      assert log =~ "dropped 5 bytes that are no message"
      assert client(pool) == client
    end

    test "ends its Python when it is stopped, and answers the calls in flight" do
      {:ok, _pool} = Python.start_pool(:to_be_stopped, python: interpreter(), model: :embedded)
      {:ok, _pong} = Python.ping(nil, pool: :to_be_stopped)
      python = os_pid(:to_be_stopped)
      signal(:to_be_stopped, "STOP")
      call = Task.async(fn -> Python.ping(nil, pool: :to_be_stopped) end)
      eventually(fn -> waiting(:to_be_stopped) == 1 end)

      assert :ok = Python.stop_pool(:to_be_stopped)
      assert {:error, %Error{kind: :port_closed, message: message}} = Task.await(call)
      assert message == "pool :to_be_stopped was stopped while the call was being made"
      {"", 0} = System.cmd("kill", ["-CONT", to_string(python)])
      eventually(fn -> not alive?(python) end)
      assert {:error, %Error{kind: :pool_not_found}} = Python.ping(nil, pool: :to_be_stopped)
      assert {:error, :not_found} = Python.stop_pool(:to_be_stopped)
    end

    test "cannot be started twice under one name" do
      pool = start_pool!()
      assert {:error, {:already_started, _pid}} = Pool.start_link(name: pool)
    end
  end

  describe "deadlines" do
    test "are kept when Python does not answer; its late answer is dropped" do
      pool = start_pool!()
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

    test "are kept when Python does not read and the pipe is full" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)
      signal(pool, "STOP")
      payload = :binary.copy("x", 1024 * 1024)

      calls =
        for _ <- 1..20 do
          Task.async(fn -> timed(fn -> Python.ping(payload, pool: pool, timeout: 500) end) end)
        end

      results = Task.await_many(calls, 10_000)
      for {_result, duration_ms} <- results, do: assert(duration_ms <= 500 + @tolerance_ms)

      stages =
        for {{:error, %Error{kind: :timeout, stage: stage}}, _duration_ms} <- results, do: stage

      assert length(stages) == 20
      # What the port never took is not sent any more.
      assert "send" in stages

      signal(pool, "CONT")
      assert {:ok, %{"payload" => :next}} = Python.ping(:next, pool: pool)
      assert :queue.is_empty(:sys.get_state(client(pool)).unsent)
    end

    test "are kept while Python is being started" do
      pool = start_pool!()
      {result, duration_ms} = timed(fn -> Python.ping(nil, pool: pool, timeout: 20) end)
      assert {:error, %Error{kind: :timeout, stage: "start"}} = result
      assert duration_ms <= 20 + @tolerance_ms
      assert {:ok, _pong} = Python.ping(nil, pool: pool)
    end

    test "may be left out" do
      pool = start_pool!()
      assert {:ok, _pong} = Python.ping(nil, pool: pool, timeout: :infinity)
    end
  end

  describe "Python that ends" do
    test "has all its callers answered at once, and is started again" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)
      # Stopped first, so that the calls are in flight when it is killed.
      signal(pool, "STOP")
      calls = for _ <- 1..50, do: Task.async(fn -> Python.ping(nil, pool: pool) end)
      eventually(fn -> waiting(pool) == 50 end)
      first = os_pid(pool)

      {results, duration_ms} =
        timed(fn ->
          signal(pool, "KILL")
          Task.await_many(calls)
        end)

      for result <- results do
        assert {:error, %Error{kind: :port_closed, retryable: true, message: message}} = result

        assert message ==
                 "python ended with status 137 while the call was being made; it is started again"
      end

      assert duration_ms < 1_000
      assert {:ok, %{"payload" => :again}} = Python.ping(:again, pool: pool)
      assert os_pid(pool) != first

      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)

      assert prediction.model =~ "embedded"
    end

    test "loses no call that was made while it was being started again" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)

      for _ <- 1..3 do
        signal(pool, "KILL")

        # Some of these reach the process that is about to end, some find none, some its successor.
        calls = for number <- 1..20, do: Task.async(fn -> Python.ping(number, pool: pool) end)

        for result <- Task.await_many(calls, 30_000) do
          assert match?({:ok, _pong}, result) or
                   match?({:error, %Error{kind: :port_closed}}, result)
        end

        assert {:ok, _pong} = Python.ping(nil, pool: pool)
      end
    end
  end

  describe "Python that cannot be started" do
    @describetag :tmp_dir

    test "is named, if there is none" do
      pool = start_pool!(python: "/there/is/no/python")
      assert {:error, %Error{kind: :missing_dependency} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ ~s|there is no executable python at "/there/is/no/python"|
      assert error.message =~ "set the option :python of pool #{inspect(pool)}"
      # Every further call too, at once.
      {result, duration_ms} = timed(fn -> Python.ping(nil, pool: pool) end)
      assert {:error, ^error} = result
      assert duration_ms < @tolerance_ms
    end

    test "is named with the package that it lacks", %{tmp_dir: folder} do
      # Isolated from the folder it is installed in, Python finds no package.
      python = script!(folder, ~s|#!/bin/sh\nexec #{interpreter()} -I -S "$@"\n|)
      pool = start_pool!(python: python)
      assert {:error, %Error{kind: :missing_dependency} = error} = Python.ping(nil, pool: pool)

      assert error.message =~
               "ended with status 1 before it was ready: ModuleNotFoundError: No module named"

      assert error.message =~ "run: #{python} -m pip install erlport_bridge"
    end

    test "is named with the module to preload that it does not find" do
      pool = start_pool!(preload: ["no_such_tools"])
      assert {:error, %Error{} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ "No module named 'no_such_tools'"
    end

    test "is given up when it does not get ready in time", %{tmp_dir: folder} do
      python = script!(folder, "#!/bin/sh\nexec sleep 60\n")
      pool = start_pool!(python: python, start_timeout: 200)
      assert {:error, %Error{kind: :port_closed} = error} = Python.ping(nil, pool: pool)
      assert error.message =~ "was not ready within 200 ms"
    end

    test "is tried again later", %{tmp_dir: folder} do
      python = Path.join(folder, "python")
      pool = start_pool!(python: python)
      assert {:error, %Error{kind: :missing_dependency}} = Python.ping(nil, pool: pool)
      client = client(pool)
      script!(folder, ~s|#!/bin/sh\nexec #{interpreter()} "$@"\n|)

      assert eventually(fn -> match?({:ok, _pong}, Python.ping(nil, pool: pool)) end)
      # It waited by itself: no supervisor was asked to restart it.
      assert client(pool) == client
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

  describe "a pool that is not there" do
    test "is an error that says what to write" do
      assert {:error, %Error{kind: :pool_not_found} = error} = Python.ping(nil, pool: :nonesuch)

      assert error.message =~
               "there is no pool :nonesuch; write config :dspex, DSPex.Python, pools: [nonesuch: ["

      assert error.message =~ ":general"
    end
  end

  describe "the pool's model" do
    test "is missed with words that say what to write" do
      pool = start_pool!(model: nil)
      assert {:ok, _pong} = Python.ping(nil, pool: pool)

      assert {:error, error} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)

      assert error.kind == :lm_not_configured

      assert error.message =~
               "pool #{inspect(pool)} has no language model; write config :dspex, DSPex.Python, pools: [#{pool}: [model: "

      assert Pool.model_state(pool) == {:ok, :none}
      assert {:ok, _model} = Python.configure_lm(:embedded, %{}, pool: pool)
      assert Pool.model_state(pool) == {:ok, :configured}

      assert {:ok, _prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)
    end

    test "that cannot be configured is told to those who need it" do
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

    test "shows its key nowhere" do
      key = "sk-secret-5d1f"

      model =
        {:openai, model: "m", api_key: key, api_base: "http://127.0.0.1:9/v1", num_retries: 0}

      log =
        capture_log(fn ->
          pool = start_pool!(model: model)
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

          # With a request in the queue that holds the key, the owner crashes.
          signal(pool, "STOP")
          call = Task.async(fn -> Python.configure_lm(:openai, elem(model, 1), pool: pool) end)
          eventually(fn -> waiting(pool) == 1 end)
          signal(pool, "KILL")
          assert {:error, %Error{kind: :port_closed} = error} = Task.await(call)
          refute inspect(error, structs: false) =~ key
          {:ok, _pong} = Python.ping(nil, pool: pool)
        end)

      assert log =~ "python_exited"
      refute log =~ key
    end
  end
end
