defmodule DSPex.Integration.PythonDSPyTest do
  @moduledoc """
  Everything together: real ports, real DSPy, a real sandbox, and a provider of models on loopback.
  """

  # Times are measured here.
  use ExUnit.Case, async: false

  import DSPex.TestPython

  alias DSPex.LLM.{Adapter, Adapters}
  alias DSPex.{ModelServer, Prediction, Python}
  alias DSPex.Python.Error

  # How long a caller may have to wait after its timeout.
  @tolerance_ms 4_000
  @context "Lisbon is the capital of Portugal. It lies on the river Tagus. The city has 545,000 inhabitants."

  describe "the five modules" do
    test "dspy.Predict answers in the types of its signature" do
      assert {:ok, prediction} =
               Python.execute_module(
                 "dspy.Predict",
                 "context, question -> answer, inhabitants: int, sure: bool, names: list[str]",
                 %{context: @context, question: "How many inhabitants has the city?"}
               )

      assert prediction[:answer] =~ "545,000"
      assert prediction[:inhabitants] == 545_000
      assert is_boolean(prediction[:sure])
      assert Enum.all?(prediction[:names], &is_binary/1)
      assert prediction.duration_ms > 0
      assert %{"total_tokens" => tokens} = prediction.usage[prediction.model]
      assert tokens > 0
    end

    test "dspy.ChainOfThought returns its reasoning" do
      inputs = %{context: @context, question: "On which river does Lisbon lie?"}

      assert {:ok, prediction} =
               Python.execute_module("dspy.ChainOfThought", "context, question -> answer", inputs)

      assert prediction[:answer] =~ "Tagus"
      assert prediction.reasoning != ""
    end

    test "dspy.ReAct calls a tool" do
      assert {:ok, prediction} =
               Python.execute_module("dspy.ReAct", "question -> answer", "What is 17 * 23?",
                 tools: ["calculator"]
               )

      assert prediction[:answer] =~ "391"
      assert "calculator" in Map.values(prediction[:trajectory])

      assert {:error, %Error{kind: kind}} =
               Python.execute_module("dspy.ReAct", "question -> answer", "Why?",
                 tools: ["no_such_tool"]
               )

      assert kind in [:tool, :input]
    end

    test "dspy.ProgramOfThought runs code in its sandbox" do
      assert {:ok, prediction} =
               Python.execute_module(
                 "dspy.ProgramOfThought",
                 "question -> answer",
                 "What is 17 * 23?",
                 timeout: 60_000
               )

      assert prediction[:answer] =~ "391"
    end

    test "dspy.MultiChainComparison compares attempts of the caller, or makes its own" do
      inputs = %{context: @context, question: "What is the capital of Portugal?"}
      module = "dspy.MultiChainComparison"
      assert {:ok, own} = Python.execute_module(module, "context, question -> answer", inputs)
      assert own[:answer] =~ "Lisbon"

      completions =
        for city <- ~w(Lisbon Porto Lisbon), do: %{reasoning: "I know it.", answer: city}

      inputs = Map.put(inputs, :completions, completions)
      assert {:ok, given} = Python.execute_module(module, "context, question -> answer", inputs)
      assert is_binary(given[:answer])
      assert is_binary(given[:rationale])
    end
  end

  describe "programs" do
    test "pass the answer of one module to the next, and keep their session between calls" do
      adapter = %Adapters.Python{}

      assert {:ok, program} =
               Adapters.Python.create_program(adapter, "context, question -> answer",
                 modules: ["dspy.ChainOfThought", "dspy.Predict"],
                 history: true
               )

      for number <- 1..3 do
        inputs = %{context: @context, question: "What is the capital of Portugal?"}

        assert {:ok, prediction} =
                 Adapters.Python.execute_program(adapter, program.id, inputs,
                   conversation: "user-42"
                 )

        assert prediction[:answer] =~ "Lisbon"

        assert {:ok, [%{"calls" => ^number, "history" => true}]} =
                 Python.list_programs(program.session_id)
      end
    end

    test "are lost without a store when Python ends, with an error that says so" do
      pool = start_pool!(store: false)
      {:ok, program} = Python.create_program([signature: "question -> answer"], pool: pool)
      assert {:ok, _prediction} = Python.execute_program(program, "Why?")
      client = Process.monitor(client(pool))
      signal(pool, "KILL")

      assert_receive {:DOWN, ^client, :process, _client, {:shutdown, {:python_exited, 137}}},
                     5_000

      assert {:error, %Error{kind: :session_not_found}} = Python.execute_program(program, "Why?")

      assert {:error, %Error{kind: :program_not_found}} =
               Python.execute_program(program.id, "Why?", pool: pool)
    end
  end

  describe "large terms" do
    for mebibytes <- [1, 16, 64] do
      test "of #{mebibytes} MiB come back unchanged" do
        payload = :rand.bytes(unquote(mebibytes) * 1024 * 1024)
        assert {:ok, %{"payload" => echo}} = Python.ping(payload, timeout: 60_000)
        # Not compared by a match, whose message would hold both terms.
        assert byte_size(echo) == byte_size(payload)
        assert :erlang.md5(echo) == :erlang.md5(payload)
      end
    end

    test "do not delay small terms for long" do
      large =
        Task.async(fn -> Python.ping(:binary.copy("é", 16 * 1024 * 1024), timeout: 60_000) end)

      assert {:ok, %{"payload" => :small}} = Python.ping(:small, timeout: 5_000)
      assert {:ok, _pong} = Task.await(large, 60_000)
    end

    test "are inputs and outputs of modules too" do
      url = ModelServer.start!()
      pool = start_pool!(model: ModelServer.model(url, "echo"))
      text = String.duplicate("a line of text. ", 65_536)

      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", "text -> copy", text,
                 pool: pool,
                 timeout: 60_000
               )

      assert String.trim(prediction[:copy]) == String.trim(text)
    end
  end

  describe "with a provider of models" do
    setup do
      url = ModelServer.start!()
      {:ok, url: url, pool: start_pool!(model: ModelServer.model(url, "echo"))}
    end

    test "a hundred callers at once have their own answers", %{pool: pool} do
      results =
        1..100
        |> Enum.map(fn number ->
          Task.async(fn ->
            {number,
             Python.execute_module("dspy.Predict", "question -> answer", "question #{number}",
               pool: pool
             )}
          end)
        end)
        |> Task.await_many(60_000)

      for {number, result} <- results do
        assert {:ok, prediction} = result
        assert prediction[:answer] == "question #{number}"
      end
    end

    test "slow calls run concurrently, and do not delay fast calls", %{url: url, pool: pool} do
      # The first request of a process is slow, because it opens connections.
      {:ok, _prediction} =
        Python.execute_module("dspy.Predict", "question -> answer", "warm", pool: pool)

      {{results, duration_ms, true}, delay_ms} =
        at_deadline(1_000, &slow_calls_and_a_ping(pool, url, &1), fn {_, _, quick?} -> quick? end)

      for result <- results, do: assert({:ok, %Prediction{}} = result)
      # In sequence they would take 20 times the delay.
      assert duration_ms < 10 * delay_ms
    end

    # Also returns whether the ping was answered before all slow calls.
    defp slow_calls_and_a_ping(pool, url, delay_ms) do
      ended = :counters.new(1, [])

      slow = fn ->
        options = [pool: pool, lm: model(url, "delay-#{delay_ms}"), timeout: :infinity]
        result = Python.execute_module("dspy.Predict", "question -> answer", "Why?", options)
        :counters.add(ended, 1, 1)
        result
      end

      {{results, quick?}, duration_ms} =
        timed(fn ->
          calls = for _ <- 1..20, do: Task.async(slow)
          assert {:ok, _pong} = Python.ping(nil, pool: pool, timeout: 60_000)
          quick? = :counters.get(ended, 1) == 0
          {Task.await_many(calls, 120_000), quick?}
        end)

      {results, duration_ms, quick?}
    end

    test "a timeout is an error in time, names the stage, and leaves the port usable",
         context do
      %{url: url, pool: pool} = context

      {:ok, _prediction} =
        Python.execute_module("dspy.Predict", "question -> answer", "warm", pool: pool)

      adapter = %Adapters.Python{pool: pool, timeout: 300}

      attempt = fn timeout ->
        requests = length(ModelServer.keys(url))
        options = [pool: pool, timeout: timeout, lm: model(url, "delay-120000")]

        {result, duration_ms} =
          timed(fn ->
            Python.execute_module("dspy.Predict", "question -> answer", "Why?", options)
          end)

        {result, duration_ms, length(ModelServer.keys(url)) > requests}
      end

      in_time? = fn {result, _duration_ms, asked?} -> asked? and python_answered?(result) end
      {{result, duration_ms, true}, timeout} = at_deadline(300, attempt, in_time?)
      assert {:error, %Error{kind: :timeout, stage: "model", retryable: true}} = result
      assert duration_ms <= timeout + @tolerance_ms

      assert {:error, :python_timeout} =
               Adapter.generate(adapter, "Why?", lm: model(url, "delay-5000"))

      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "next", pool: pool)

      assert prediction[:answer] == "next"
    end

    test "its errors have their kind", %{url: url, pool: pool} do
      for {name, kind, retryable} <- [
            {"status-401", :auth, false},
            {"error-insufficient_quota", :billing, false},
            {"status-429", :rate_limit, true},
            {"status-503", :server, true},
            {"error-context_length_exceeded", :context_window, false},
            {"closed", :transport, true},
            {"garbage", :parse, true}
          ] do
        result =
          Python.execute_module("dspy.Predict", "question -> answer", "Why?",
            pool: pool,
            lm: model(url, name)
          )

        assert {^name, {:error, %Error{kind: ^kind, retryable: ^retryable} = error}} =
                 {name, result}

        refute inspect(error, structs: false) =~ "test-key-7f3a"
      end

      assert {:ok, _prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: pool)
    end

    test "callers whose Python is killed are all answered, and the next call works", %{
      url: url,
      pool: pool
    } do
      {:ok, _prediction} =
        Python.execute_module("dspy.Predict", "question -> answer", "warm", pool: pool)

      calls =
        for _ <- 1..30 do
          Task.async(fn ->
            Python.execute_module("dspy.Predict", "question -> answer", "Why?",
              pool: pool,
              lm: model(url, "delay-30000")
            )
          end)
        end

      eventually(fn -> waiting(pool) == 30 end)
      signal(pool, "KILL")
      results = Task.await_many(calls, 60_000)
      for result <- results, do: assert({:error, %Error{kind: :worker_died}} = result)

      assert {:ok, prediction} =
               Python.execute_module("dspy.Predict", "question -> answer", "again", pool: pool)

      assert prediction[:answer] == "again"
    end

    test "an address without a server is a transport error" do
      model = %{
        provider: :openai,
        model: "m",
        api_base: "http://127.0.0.1:1/v1",
        api_key: "k",
        num_retries: 0
      }

      result = Python.execute_module("dspy.Predict", "question -> answer", "Why?", lm: model)
      assert {:error, %Error{kind: :transport}} = result
    end
  end

  describe "bad input" do
    test "has its own error, and leaves the port usable" do
      signature = "question -> answer"

      predict = fn signature, inputs ->
        Python.execute_module("dspy.Predict", signature, inputs)
      end

      for {kind, part, call} <- [
            {:module_not_found, ~s|did you mean "dspy.Predict"?|,
             fn -> Python.execute_module("dspy.Predcit", signature, "Why?") end},
            {:module_not_found, "dspy.settings",
             fn -> Python.execute_module("dspy.settings", signature, "Why?") end},
            {:module_not_found, "os.system",
             fn -> Python.execute_module("os.system", signature, "Why?") end},
            {:signature, "outputs", fn -> predict.("question ->", "Why?") end},
            {:signature, "no_such_type",
             fn -> predict.("question: no_such_type -> answer", "Why?") end},
            {:signature, "reserved", fn -> predict.("question -> config", "Why?") end},
            {:input, "inputs.question", fn -> predict.(signature, %{}) end},
            {:input, "inputs.extra",
             fn -> predict.(signature, %{question: "Why?", extra: 1}) end},
            {:input, "expected a string at inputs.question, got 42",
             fn -> predict.(signature, %{question: 42}) end},
            {:input, "inputs.numbers[1]",
             fn -> predict.("numbers: list[int] -> answer", %{numbers: [1, "two"]}) end},
            {:input, "UTF-8", fn -> predict.(signature, %{question: <<255, 254>>}) end},
            {:session_not_found, "s-none", fn -> Python.close_session("s-none") end},
            {:program_not_found, "p-none", fn -> Python.execute_program("p-none", %{}) end},
            {:input, "no_such_operation", fn -> Python.call(:no_such_operation, []) end},
            {:input, "takes", fn -> Python.call(:ping, [1, 2, 3]) end},
            {:input, "nests deeper than",
             fn -> Python.ping(Enum.reduce(1..100_000, [], fn _, nested -> [nested] end)) end},
            {:input, "one key in Python", fn -> Python.ping(%{1 => :a, 1.0 => :b}) end}
          ] do
        assert {:error, %Error{} = error} = call.()
        assert {part, error.kind, error.message} == {part, kind, error.message}
        assert error.message =~ part or error.path == part
        assert {:ok, _pong} = Python.ping()
      end
    end

    test "a frame that is not a term is dropped" do
      pool = start_pool!()
      {:ok, _pong} = Python.ping(nil, pool: pool)
      client = client(pool)

      :sys.replace_state(client, fn state ->
        Port.command(state.port, "no term")
        Port.command(state.port, :erlang.term_to_binary({:unknown, :message}))
        state
      end)

      assert {:ok, %{"payload" => :after}} = Python.ping(:after, pool: pool)
      assert client(pool) == client
    end
  end

  defp model(url, name) do
    {provider, options} = ModelServer.model(url, name)
    options |> Map.new() |> Map.put(:provider, provider)
  end
end
