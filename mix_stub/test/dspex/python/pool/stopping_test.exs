defmodule DSPex.Python.Pool.StoppingTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{Prediction, Python}
  alias DSPex.Python.{Error, Pool, ScriptedModel}

  @qa "question -> answer"

  # Under a supervisor that any process may ask.
  defp start_ready!(options) do
    name = :"pool_#{System.unique_integer([:positive])}"

    options =
      Keyword.merge([python: interpreter(), model: :embedded, stop_timeout: 60_000], options)

    start_supervised!(%{
      id: name,
      start:
        {Supervisor, :start_link, [[{Pool, [name: name] ++ options}], [strategy: :one_for_one]]},
      type: :supervisor
    })

    assert Python.await_pools([name]) == :ok
    name
  end

  # A model that answers `text` when it is told to.
  defp waiting_model(text \\ "done") do
    test = self()

    fn _request ->
      send(test, {:asked, self()})
      receive do: (:go_on -> ScriptedModel.written(answer: text))
    end
  end

  defp ask(pool, model, options \\ []) do
    options = [pool: pool, lm: {:elixir, model}, timeout: 120_000] ++ options
    Python.execute_module("dspy.Predict", @qa, "Why?", options)
  end

  defp begin(pool, options \\ []) do
    model = waiting_model()
    call = Task.async(fn -> ask(pool, model, options) end)
    assert_receive {:asked, model}, 30_000
    {call, model}
  end

  defp stop(pool) do
    [{pid, _value}] = Registry.lookup(DSPex.Python.Registry, {:pool, pool})
    {:dictionary, dictionary} = Process.info(pid, :dictionary)
    [supervisor | _ancestors] = dictionary[:"$ancestors"]

    Task.async(fn ->
      timed(fn -> :ok = Supervisor.terminate_child(supervisor, {Pool, pool}) end)
    end)
  end

  # Waits until the pool refuses calls.
  defp await_stopping(pool) do
    eventually(fn ->
      match?({:error, %Error{kind: :pool_not_found}}, Python.ping(nil, pool: pool))
    end)
  end

  defp slow(_request), do: ScriptedModel.written(answer: "late")

  test "an idle pool stops at once, and so does one with stop_timeout: 0" do
    pool = start_ready!(size: 1)
    {_stopped, ms} = pool |> stop() |> Task.await(60_000)
    assert ms < 10_000

    pool = start_ready!(stop_timeout: 0)
    {call, _model} = begin(pool)
    {_stopped, ms} = pool |> stop() |> Task.await(60_000)
    assert ms < 10_000
    assert {:error, %Error{kind: :port_closed, message: message}} = Task.await(call, 60_000)
    assert message == "pool #{inspect(pool)} was stopped while the call was being made"
  end

  test "a Python that is killed meanwhile is not said to be started again" do
    pool = start_ready!(size: 1)
    {call, _model} = begin(pool)
    os_pid = os_pid(pool)

    log =
      capture_log(fn ->
        stop = stop(pool)
        await_stopping(pool)
        signal_process(os_pid, "KILL")
        assert {:error, %Error{kind: :worker_died, message: message}} = Task.await(call, 60_000)
        assert message =~ "was killed by signal 9 while the call was being made, while its pool"
        assert {:ok, _ms} = Task.await(stop, 60_000)
      end)

    assert log =~
             "python of pool #{inspect(pool)} was killed by signal 9, while its pool was being"
  end

  test "a batch in several workers keeps what was answered until the end" do
    pool = start_ready!(size: 2, standby: 0, stop_timeout: 500)
    test = self()

    model = fn request ->
      if List.last(request.messages).content =~ "slow", do: Process.sleep(:infinity)
      ScriptedModel.written(answer: "done")
    end

    inputs = for number <- 1..40, do: if(rem(number, 4) == 0, do: "slow", else: "quick")
    options = [pool: pool, lm: {:elixir, model}, timeout: 120_000, max_concurrency: 40]

    batch =
      Task.async(fn ->
        "dspy.Predict"
        |> Python.stream_batch(@qa, inputs, options)
        |> Enum.map(&tap(&1, fn _result -> send(test, :result) end))
      end)

    for _ <- 1..30, do: assert_receive(:result, 30_000)
    pool |> stop() |> Task.await(60_000)
    results = Task.await(batch, 60_000)
    assert results |> Enum.map(&elem(&1, 0)) |> Enum.sort() == Enum.to_list(0..39)

    for {index, result} <- results do
      case Enum.at(inputs, index) do
        "quick" -> assert {:ok, _prediction} = result
        "slow" -> assert {:error, %Error{kind: :port_closed}} = result
      end
    end
  end

  # Each item had what was done for its part, and parts that had not begun were `pool_not_found`: no caller knew which
  # items it may send again.
  for {kind, size} <- [batch: 1, evaluation: 1, stream: 2, program: 2] do
    @tag size: size, kind: kind
    test "the items of a #{kind} in #{size} say whether they had begun", %{size: size, kind: kind} do
      pool = start_ready!(size: size, standby: 0, stop_timeout: 500)
      {model, asked} = model_of_two(size)
      call = Task.async(fn -> results_of(kind, pool, {:elixir, model}, []) end)
      eventually(fn -> length(Agent.get(asked, & &1)) >= 4 * size end)
      pool |> stop() |> Task.await(60_000)
      {:ok, results} = Task.await(call, 60_000)
      asked = Agent.get(asked, & &1)
      assert length(results) == 40
      assert Enum.count(results, &match?({:ok, _value}, &1)) == 2 * size

      for {{:error, error}, number} <- Enum.with_index(results) do
        begun? = "item#{number};" in asked
        assert %Error{kind: :port_closed, retryable: true, details: details} = error
        refute Map.has_key?(details, "begun")

        assert Map.take(details, ["sent", "asked", "called"]) ==
                 %{"sent" => begun?, "asked" => begun?, "called" => begun?}
      end
    end
  end

  test "with on_error: :fail_fast a stop keeps what was answered, of several workers" do
    pool = start_ready!(size: 2, standby: 0, stop_timeout: 500)
    {model, asked} = model_of_two(2)
    options = [on_error: :fail_fast]
    call = Task.async(fn -> results_of(:batch, pool, {:elixir, model}, options) end)
    eventually(fn -> length(Agent.get(asked, & &1)) >= 8 end)
    pool |> stop() |> Task.await(60_000)
    {:ok, results} = Task.await(call, 60_000)
    assert Enum.count(results, &match?({:ok, _value}, &1)) == 4
    closed = for {:error, %Error{kind: :port_closed} = error} <- results, do: error
    assert closed != []
    refute Enum.any?(closed, &Map.has_key?(&1.details, "begun"))
    others = for {:error, error} <- results, error.kind != :port_closed, do: error
    assert Enum.all?(others, &(&1.kind == :cancelled))
  end

  test "a batch of which nothing was answered says what was done for any part of it" do
    for size <- [1, 2] do
      pool = start_ready!(size: size, standby: 0, stop_timeout: 300)
      {model, asked} = model_of_two(0)
      call = Task.async(fn -> results_of(:batch, pool, {:elixir, model}, []) end)
      eventually(fn -> length(Agent.get(asked, & &1)) >= 2 * size end)
      pool |> stop() |> Task.await(60_000)
      assert {:error, %Error{kind: :port_closed, details: details}} = Task.await(call, 60_000)
      assert %{"sent" => true, "asked" => true, "called" => true} = details
      # Of several parts that begin at the same time, those that had begun are not the first ones.
      assert details["begun"] == if(size == 1, do: 2)
    end
  end

  # Answers the first two calls of each worker, and no other.
  defp model_of_two(size) do
    asked = start_supervised!({Agent, fn -> [] end}, id: make_ref())

    model = fn request ->
      [item] = Regex.run(~r/item\d+;/, List.last(request.messages).content)
      number = Agent.get_and_update(asked, &{length(&1), [item | &1]})
      if number >= 2 * size, do: Process.sleep(:infinity)
      ScriptedModel.written(answer: "done")
    end

    {model, asked}
  end

  defp results_of(kind, pool, model, options) do
    items = for number <- 0..39, do: "item#{number};"
    size = DSPex.Python.Pool.Routing.size(pool)
    options = [lm: model, max_concurrency: 2 * size, timeout: 120_000] ++ options

    case kind do
      :batch ->
        Python.execute_batch("dspy.Predict", @qa, items, [pool: pool] ++ options)

      :stream ->
        stream = Python.stream_batch("dspy.Predict", @qa, items, [pool: pool] ++ options)
        {:ok, stream |> Enum.sort_by(&elem(&1, 0)) |> Enum.map(&elem(&1, 1))}

      :program ->
        {:ok, program} = Python.create_program(@qa, pool: pool)
        Python.execute_program_batch(program, items, options)

      :evaluation ->
        {:ok, program} = Python.create_program(@qa, pool: pool)
        examples = for item <- items, do: %{question: item, answer: "done"}

        with {:ok, evaluation} <-
               Python.evaluate_program(program, examples, "exact_match", options),
             do: {:ok, evaluation.results}
    end
  end

  test "the longest stop_timeout is one that a supervisor takes" do
    # With what the supervisor allows beyond it, it was longer than Erlang's timers, and ended the supervisor.
    pool = start_ready!(stop_timeout: 4_294_967_295)
    [{supervisor, _value}] = Registry.lookup(DSPex.Python.Registry, {:pool, pool})
    monitor = Process.monitor(supervisor)
    {call, model} = begin(pool)
    stop = stop(pool)
    await_stopping(pool)
    send(model, :go_on)
    assert {:ok, _prediction} = Task.await(call, 60_000)
    assert {:ok, _ms} = Task.await(stop, 60_000)
    assert_receive {:DOWN, ^monitor, :process, _pid, :shutdown}
  end

  test "calls in flight end, and further ones are refused" do
    pool = start_ready!(size: 2, standby: 0)
    calls = for _ <- 1..4, do: begin(pool)
    stop = stop(pool)
    await_stopping(pool)

    assert {:error, %Error{kind: :pool_not_found, retryable: false, message: message}} =
             Python.ping(nil, pool: pool)

    assert message == "pool #{inspect(pool)} is being stopped, and takes no further calls"
    # What is about calls in flight is not refused.
    assert {:ok, %{"operations" => _}} = Python.metrics(pool: pool)
    assert Task.yield(stop, 200) == nil
    for {_call, model} <- calls, do: send(model, :go_on)

    for {call, _model} <- calls,
        do: assert({:ok, %Prediction{fields: %{"answer" => "done"}}} = Task.await(call, 60_000))

    assert {_stopped, ms} = Task.await(stop, 60_000)
    assert ms < 50_000
  end

  test "what has not ended in time is answered, and says what was done for it" do
    pool = start_ready!(stop_timeout: 300)
    {call, _model} = begin(pool)
    {_stopped, ms} = pool |> stop() |> Task.await(60_000)
    assert ms >= 300 and ms < 20_000

    assert {:error, %Error{kind: :port_closed, retryable: true} = error} =
             Task.await(call, 60_000)

    assert %{"sent" => true, "asked" => true} = error.details

    assert error.message ==
             "pool #{inspect(pool)} was stopped while the call was being made; it was given 300 ms to end"
  end

  test "a call that is cancelled holds up no stop" do
    pool = start_ready!([])
    {call, _model} = begin(pool, request_id: "cancelled")
    stop = stop(pool)
    await_stopping(pool)
    assert {:ok, 1} = Python.cancel("cancelled", pool: pool)
    assert {:error, %Error{kind: :cancelled}} = Task.await(call, 30_000)
    assert {_stopped, ms} = Task.await(stop, 60_000)
    assert ms < 50_000
  end

  test "a stream goes on, with the credit that its reader gives" do
    pool = start_ready!([])
    test = self()
    words = for number <- 1..200, do: "word#{number} "

    model = fn _request ->
      send(test, {:asked, self()})
      receive do: (:go_on -> ["[[ ## answer ## ]]\n"] ++ words ++ ["[[ ## completed ## ]]"])
    end

    reader =
      Task.async(fn ->
        Python.stream("dspy.Predict", @qa, "Why?", pool: pool, lm: {:elixir, model}, buffer: 4)
        |> Enum.to_list()
      end)

    assert_receive {:asked, model}, 30_000
    stop = stop(pool)
    await_stopping(pool)
    send(model, :go_on)
    elements = Task.await(reader, 60_000)
    assert {:prediction, %Prediction{fields: %{"answer" => answer}}} = List.last(elements)
    assert answer == String.trim(Enum.join(words))
    assert Enum.count(elements, &match?({:chunk, _field, _text}, &1)) > 50
    assert {_stopped, _ms} = Task.await(stop, 60_000)
  end

  test "a batch over several workers goes on, and one that begins afterwards is refused" do
    pool = start_ready!(size: 2, standby: 0)
    asked = :counters.new(1, [])

    may_answer? = :atomics.new(1, [])

    model = fn _request ->
      :counters.add(asked, 1, 1)
      eventually(fn -> :atomics.get(may_answer?, 1) == 1 end)
      ScriptedModel.written(answer: "done")
    end

    inputs = for number <- 1..120, do: "Q#{number}"
    options = [pool: pool, lm: {:elixir, model}, max_concurrency: 4, timeout: 120_000]

    batch = Task.async(fn -> Python.execute_batch("dspy.Predict", @qa, inputs, options) end)

    streamed =
      Task.async(fn ->
        inputs
        |> then(&Python.stream_batch("dspy.Predict", @qa, &1, [chunk_size: 20] ++ options))
        |> Enum.to_list()
      end)

    eventually(fn -> :counters.get(asked, 1) > 4 end)
    stop = stop(pool)
    await_stopping(pool)
    # Most parts begin only now.
    assert :counters.get(asked, 1) < 20

    assert {:error, %Error{kind: :pool_not_found}} =
             Python.execute_batch("dspy.Predict", @qa, inputs, options)

    :atomics.put(may_answer?, 1, 1)
    assert {:ok, results} = Task.await(batch, 60_000)
    assert length(results) == 120 and Enum.all?(results, &match?({:ok, _prediction}, &1))
    results = Task.await(streamed, 60_000)
    assert results |> Enum.map(&elem(&1, 0)) |> Enum.sort() == Enum.to_list(0..119)
    assert Enum.all?(results, &match?({_index, {:ok, _prediction}}, &1))
    assert {_stopped, _ms} = Task.await(stop, 60_000)
  end

  test "a tool of a call in flight may call the pool, also from a task" do
    pool = start_ready!([])
    test = self()

    tool = %{
      name: "ask",
      description: "Asks",
      function: fn %{} ->
        send(test, {:asked, self()})
        receive do: (:go_on -> :ok)
        own = ask(pool, &slow/1)
        of_task = Task.await(Task.async(fn -> ask(pool, &slow/1) end), 60_000)
        with {:ok, _} <- own, {:ok, prediction} <- of_task, do: prediction[:answer]
      end
    }

    model = fn request ->
      if ScriptedModel.text(request) =~ "late",
        do:
          ScriptedModel.written(
            next_thought: "done",
            next_tool_name: "finish",
            next_tool_args: %{},
            reasoning: "r",
            answer: "late"
          ),
        else: ScriptedModel.written(next_thought: "t", next_tool_name: "ask", next_tool_args: %{})
    end

    options = [pool: pool, lm: {:elixir, model}, tools: [tool], timeout: 120_000]
    call = Task.async(fn -> Python.execute_module("dspy.ReAct", @qa, "Why?", options) end)
    assert_receive {:asked, running}, 30_000
    stop = stop(pool)
    await_stopping(pool)
    send(running, :go_on)
    assert {:ok, %Prediction{fields: %{"answer" => "late"}}} = Task.await(call, 60_000)
    assert {_stopped, _ms} = Task.await(stop, 60_000)
  end

  test "waiting calls begin while there is time, and the others are refused at once" do
    # Of one worker with one place, whose calls take 100 ms or more.
    pool = start_ready!(max_in_flight: 1, stop_timeout: 3_000)
    test = self()

    model = fn _request ->
      Process.sleep(100)
      ScriptedModel.written(answer: "done")
    end

    calls =
      for _ <- 1..200 do
        Task.async(fn ->
          result = ask(pool, model)
          send(test, {:ended, elem(result, 0)})
          {result, System.monotonic_time(:millisecond)}
        end)
      end

    # So that the pool knows how fast it is.
    for _ <- 1..10, do: assert_receive({:ended, :ok}, 60_000)
    {_stopped, ms} = pool |> stop() |> Task.await(60_000)
    assert ms < 20_000
    results = Task.await_many(calls, 60_000)
    done = for {{:ok, _prediction}, at} <- results, do: at

    refused =
      for {{:error, error}, at} <- results do
        assert %Error{kind: kind} = error
        assert kind in [:pool_not_found, :port_closed]
        {kind, at}
      end

    assert length(done) > 10
    # More than a hundred cannot begin within 3 s. They were refused while others still ran.
    assert Enum.count(refused, fn {_kind, at} -> at < Enum.max(done) end) > 100
    assert Enum.count(refused, &match?({:port_closed, _at}, &1)) <= 1
  end

  test "no waiting call is lost between its turn and its beginning" do
    for _round <- 1..3 do
      # So long that no call is refused for how long the first one takes.
      pool = start_ready!(max_in_flight: 1, stop_timeout: 3_600_000)
      {first, model} = begin(pool)
      calls = for _ <- 1..100, do: Task.async(fn -> ask(pool, &slow/1) end)
      eventually(fn -> Pool.report(pool)["queued"] == 100 end)
      stop = stop(pool)
      await_stopping(pool)
      send(model, :go_on)

      for result <- Task.await_many([first | calls], 60_000),
          do: assert({:ok, _prediction} = result)

      assert {_stopped, ms} = Task.await(stop, 60_000)
      assert ms < 50_000
    end
  end

  describe "stop_pool/1" do
    setup do
      pool = :"pool_#{System.unique_integer([:positive])}"
      on_exit(fn -> Python.stop_pool(pool) end)
      %{pool: pool}
    end

    defp start_named!(pool, options) do
      options = [python: interpreter(), model: :embedded, size: 1] ++ options
      {:ok, _pid} = Python.start_pool(pool, options)
      assert Python.await_pools([pool]) == :ok
    end

    # Not by stop_pool/1, which would do what is left.
    defp await_stopped(pool),
      do: eventually(fn -> Registry.lookup(DSPex.Python.Registry, {:pool, pool}) == [] end)

    # The pool refused all calls for ever.
    test "goes on when its caller is killed, and another one waits for the same", %{pool: pool} do
      start_named!(pool, stop_timeout: 60_000)
      {call, model} = begin(pool)
      stopper = spawn(fn -> Python.stop_pool(pool) end)
      await_stopping(pool)
      Process.exit(stopper, :kill)
      second = Task.async(fn -> Python.stop_pool(pool) end)
      refute Task.yield(second, 200)
      send(model, :go_on)
      assert {:ok, %Prediction{}} = Task.await(call, 60_000)
      assert Task.await(second, 30_000) == :ok
      assert {:error, %{kind: :pool_not_found}} = Python.stop_pool(pool)
      start_named!(pool, [])
    end

    test "goes on when nobody waits for it", %{pool: pool} do
      start_named!(pool, stop_timeout: 60_000)
      {call, model} = begin(pool)
      stopper = spawn(fn -> Python.stop_pool(pool) end)
      await_stopping(pool)
      Process.exit(stopper, :kill)
      send(model, :go_on)
      assert {:ok, %Prediction{}} = Task.await(call, 60_000)
      await_stopped(pool)
      start_named!(pool, [])
    end

    # `start_pool` was `{:error, :already_present}` for ever after that.
    test "by a tool of the pool itself ends the call, and the pool can be started again", %{
      pool: pool
    } do
      start_named!(pool, stop_timeout: 300)

      tool = %{
        name: "stop",
        description: "Stops the pool.",
        parameters: %{},
        function: fn _args -> Python.stop_pool(pool) end
      }

      model = fn _request ->
        ScriptedModel.written(next_thought: "t", next_tool_name: "stop", next_tool_args: %{})
      end

      options = [pool: pool, lm: {:elixir, model}, tools: [tool], timeout: 60_000]
      assert {:error, %Error{kind: kind}} = Python.execute_module("dspy.ReAct", @qa, "?", options)
      assert kind == :port_closed
      await_stopped(pool)
      start_named!(pool, [])
    end
  end

  test "the application stops its pools at the same time, while their functions still run" do
    script = """
    [python] = System.argv()
    {:ok, _started} = Application.ensure_all_started(:dspex)
    alias DSPex.Python

    pools = [:a, :b, :c]
    for pool <- pools, do: {:ok, _pid} = Python.start_pool(pool, python: python, stop_timeout: 60_000)
    :ok = Python.await_pools(pools)
    main = self()

    model = fn _request ->
      send(main, {:asked, self()})
      receive do: (:go_on -> Python.ScriptedModel.written(answer: "done"))
    end

    calls =
      for pool <- pools do
        Task.async(fn ->
          Python.execute_module("dspy.Predict", "q -> answer", "?", pool: pool, lm: {:elixir, model})
        end)
      end

    models = for _ <- pools, do: receive(do: ({:asked, model} -> model))
    stop = Task.async(fn -> Application.stop(:dspex) end)

    # No call ends before all pools are being stopped.
    await_stopping = fn await_stopping, pool ->
      with {:ok, _pong} <- Python.ping(nil, pool: pool), do: await_stopping.(await_stopping, pool)
    end

    for pool <- pools do
      {:error, %Python.Error{kind: :pool_not_found}} = await_stopping.(await_stopping, pool)
    end

    for model <- models, do: send(model, :go_on)
    for {:ok, prediction} <- Task.await_many(calls, 60_000), do: IO.puts(prediction[:answer])
    :ok = Task.await(stop, 60_000)
    """

    beams = Path.join(Application.app_dir(:dspex), "ebin")

    {output, 0} =
      System.cmd("elixir", ["-pa", beams, "-e", script, "--", interpreter()],
        stderr_to_stdout: true
      )

    assert output =~ ~r/^done\ndone\ndone\n/m
  end
end
