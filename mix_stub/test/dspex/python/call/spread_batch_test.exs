defmodule DSPex.Python.Call.SpreadBatchTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython
  import ExUnit.CaptureLog

  alias DSPex.{ModelServer, Python}
  alias DSPex.Python.{Error, ScriptedModel}

  @qa "question -> answer"

  setup do
    pool = start_pool!(size: 2)
    assert Python.await_pools([pool]) == :ok
    {:ok, pool: pool}
  end

  defp echo(request) do
    Process.sleep(20)

    [_all, question] =
      Regex.run(~r/\[\[ ## question ## \]\]\n(.*)\n/, List.last(request.messages).content)

    ScriptedModel.written(answer: question)
  end

  test "a batch runs in all workers, and its results are in the order of the inputs", %{
    pool: pool
  } do
    inputs = for number <- 1..200, do: "Q#{number}"
    options = [pool: pool, lm: {:elixir, &echo/1}]
    assert {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs, options)
    assert for({:ok, prediction} <- results, do: prediction[:answer]) == inputs

    workers = Enum.frequencies_by(results, fn {:ok, prediction} -> prediction.meta["worker"] end)
    assert map_size(workers) == 2
    # Neither has less than a fourth.
    assert Enum.all?(Map.values(workers), &(&1 >= 50))

    streamed = Python.stream_batch("dspy.Predict", @qa, inputs, options) |> Enum.to_list()
    assert length(streamed) == 200

    in_order =
      for {index, {:ok, prediction}} <- Enum.sort_by(streamed, &elem(&1, 0)),
          do: {index, prediction[:answer]}

    assert in_order == Enum.with_index(inputs, fn question, index -> {index, question} end)
  end

  test "wrong items and a wrong batch have the errors that they have in one worker", %{pool: pool} do
    one = start_pool!()

    for {module, inputs, options} <- [
          {"dspy.Predict", ["a", %{nope: 1}, 5, "b", %URI{}], []},
          {"dspy.Predict", Enum.map(1..20, &%{question: &1}), []},
          {"dspy.Nope", ["a", "b"], []},
          {"dspy.Predict", ["a", "b", "c"], [max_concurrency: 0]},
          {"dspy.Predict", ["a", "b", "c"], [max_concurency: 1]},
          {"dspy.Predict", "no list", []},
          {"dspy.Predict", [], []}
        ] do
      [expected, got] =
        for pool <- [one, pool],
            do: shown(Python.execute_batch(module, @qa, inputs, [pool: pool] ++ options))

      assert got == expected
    end
  end

  test "more items at the same time than the workers take are an error, as in one worker", %{
    pool: pool
  } do
    # Each part had a share that was not too much, so 500 were taken by two workers and refused by one.
    message =
      "expected an integer from 1 to 512 (256 for each worker) at opts.max_concurrency, got"

    options = [pool: pool, max_concurrency: 513]

    for result <- [
          Python.execute_batch("dspy.Predict", @qa, ["a", "b"], options),
          Enum.at(Python.stream_batch("dspy.Predict", @qa, ["a", "b"], options), -1)
        ] do
      assert {:error, %Error{kind: :input, path: "opts.max_concurrency"} = error} = result
      assert error.message == "#{message} 513"
    end

    options = [pool: pool, max_concurrency: 512]

    assert {:ok, [{:ok, _}, {:ok, _}]} =
             Python.execute_batch("dspy.Predict", @qa, ["a", "b"], options)
  end

  defp shown({:ok, %DSPex.Prediction{fields: fields}}), do: fields
  defp shown({:ok, results}), do: Enum.map(results, &shown/1)
  defp shown({:error, %Error{} = error}), do: {error.kind, error.path, error.message}

  test "with on_error: :fail_fast the first error ends the others in all workers", %{pool: pool} do
    asked = :counters.new(1, [])

    model = fn request ->
      :counters.add(asked, 1, 1)

      # The others run until they are cancelled.
      if List.last(request.messages).content =~ "Q3\n",
        do: {:error, {:billing, "no money"}},
        else: Process.sleep(:infinity)
    end

    inputs = for number <- 1..400, do: "Q#{number}"
    options = [pool: pool, lm: {:elixir, model}, on_error: :fail_fast]
    assert {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs, options)
    kinds = Enum.frequencies_by(results, fn {_status, value} -> Map.get(value, :kind, :ok) end)
    assert kinds == %{billing: 1, cancelled: 399}
    assert :counters.get(asked, 1) < 100
    assert {:error, %Error{message: message}} = List.last(results)
    assert message == "not done, since item 2 failed and on_error is fail_fast"
  end

  # They were told to be cancelled, although they had been answered and paid.
  test "with on_error: :fail_fast what other workers have answered is there", %{pool: pool} do
    model = fn request ->
      if List.last(request.messages).content =~ "Q1\n" do
        # Not the first result that is read.
        Process.sleep(500)
        {:error, {:billing, "no money"}}
      else
        ScriptedModel.written(answer: "a")
      end
    end

    inputs = for number <- 1..40, do: "Q#{number}"
    options = [pool: pool, lm: {:elixir, model}, on_error: :fail_fast]

    results =
      "dspy.Predict"
      |> Python.stream_batch(@qa, inputs, options)
      |> Stream.with_index()
      |> Enum.map(fn {result, count} ->
        # All are answered meanwhile.
        if count == 0, do: Process.sleep(2_000)
        result
      end)
      |> Enum.sort()

    assert {0, {:error, %Error{kind: :billing}}} = List.first(results)
    # Those of the same part are its worker's to cancel.
    for {index, result} <- results, index >= 10, do: assert({^index, {:ok, _}} = {index, result})
    assert Enum.map(results, &elem(&1, 0)) == Enum.to_list(0..39)
  end

  test "a halted stream ends the batch in all workers", %{pool: pool} do
    inputs = for number <- 1..100, do: "Q#{number}"
    stream = Python.stream_batch("dspy.Predict", @qa, inputs, pool: pool, lm: {:elixir, &echo/1})
    assert [_one, _two] = Enum.take(stream, 2)
    eventually(fn -> in_flight(pool) == 0 end)
    assert Process.info(self(), :messages) == {:messages, []}
  end

  defp in_flight(pool) do
    {:ok, metrics} = Python.metrics(pool: pool)
    get_in(metrics, ["operations", "stream_batch", "in_flight"]) || 0
  end

  defp kill_worker(pool) do
    {:ok, pong} = Python.ping(nil, pool: pool, timeout: 60_000)
    signal_process(pong["pid"], "KILL")
  end

  for {workers, size} <- [one: 1, two: 2] do
    @tag size: size
    test "in #{workers}, items of workers that die are run again, each once", context do
      pool = if context.size == 1, do: start_pool!(), else: context.pool
      url = ModelServer.start!()
      inputs = for number <- 1..300, do: "Q#{number}"
      options = [pool: pool, lm: ModelServer.model(url, "delay-30"), timeout: 120_000]

      log =
        capture_log(fn ->
          results =
            "dspy.Predict"
            |> Python.stream_batch(@qa, inputs, options)
            |> Stream.with_index()
            |> Stream.each(fn {_result, count} ->
              if count in [30, 120], do: kill_worker(pool)
            end)
            |> Enum.map(&elem(&1, 0))
            |> Enum.sort_by(&elem(&1, 0))

          assert Enum.map(results, &elem(&1, 0)) == Enum.to_list(0..299)
          for {_index, result} <- results, do: assert({:ok, _prediction} = result)
        end)

      assert log =~ "was killed by signal 9"
    end
  end

  # The whole part was asked for again, with the results that had been read already: errors of kind `internal`.
  for {what, options} <- [
        "a batch": [],
        "a batch of a session, which is one call,": [session_id: "s"]
      ] do
    test "#{what} of a pool with retry: :safe has each result once when a worker dies" do
      pool = start_pool!(size: 2, retry: :safe)
      assert Python.await_pools([pool]) == :ok
      {:ok, _session} = Python.open_session("s", [], pool: pool)
      url = ModelServer.start!()
      options = [pool: pool, lm: ModelServer.model(url, "delay-30"), timeout: 120_000]
      killed = :counters.new(1, [])

      capture_log(fn ->
        elements =
          "dspy.Predict"
          |> Python.stream_batch(
            @qa,
            for(number <- 1..200, do: "Q#{number}"),
            options ++ unquote(options)
          )
          |> Stream.each(fn element ->
            with {index, {:ok, prediction}} when index > 5 <- element,
                 0 <- :counters.get(killed, 1) do
              :counters.add(killed, 1, 1)
              signal_process(prediction.meta["pid"], "KILL")
            end
          end)
          |> Enum.to_list()

        {results, ends} = Enum.split_with(elements, &is_integer(elem(&1, 0)))
        indexes = Enum.map(results, &elem(&1, 0))
        assert Enum.uniq(indexes) == indexes
        for {_index, result} <- results, do: assert({:ok, _prediction} = result)

        case unquote(options) do
          [] -> assert {length(results), ends} == {200, []}
          _one_call -> assert [{:error, %Error{kind: :worker_died}}] = ends
        end
      end)
    end
  end

  test "a batch whose only worker dies goes on with what has no result yet" do
    pool = start_pool!()

    capture_log(fn ->
      {batch, url} = begin_batch(pool, 40, 4)
      eventually(fn -> asked(url) >= 20 end)
      kill_worker(pool)
      assert {:ok, results} = Task.await(batch, 120_000)
      assert length(results) == 40
      for result <- results, do: assert({:ok, _prediction} = result)
      # Only those that were in flight are asked again.
      assert asked(url) in 40..44
    end)
  end

  @tag :tmp_dir
  test "one item that kills Python fails alone", %{tmp_dir: folder} do
    File.write!(Path.join(folder, "deadly.py"), """
    import os, signal, dspy

    class Deadly(dspy.Module):
        def __init__(self):
            super().__init__()
            self.ask = dspy.Predict("question -> answer")

        def forward(self, question):
            if question == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            return self.ask(question=question)
    """)

    pool = start_pool!(python_path: [folder], modules: ["deadly.Deadly"], model: :embedded)
    inputs = for number <- 1..60, do: if(number == 30, do: "kill", else: "Q#{number}")
    options = [pool: pool, max_concurrency: 4, timeout: 120_000]

    capture_log(fn ->
      assert {:ok, results} = Python.execute_batch("deadly.Deadly", nil, inputs, options)
      {failed, done} = Enum.split_with(Enum.with_index(results), &match?({{:error, _e}, _at}, &1))
      assert length(done) == 59
      assert [{{:error, %Error{kind: :worker_died}}, 29}] = failed
    end)
  end

  test "with a function, only what was in flight is not run again" do
    pool = start_pool!()
    test = self()

    model = fn request ->
      send(test, {:asked, self()})
      receive do: (:go_on -> echo(request))
    end

    inputs = for number <- 1..40, do: "Q#{number}"
    options = [pool: pool, lm: {:elixir, model}, max_concurrency: 2, timeout: 120_000]

    capture_log(fn ->
      batch = Task.async(fn -> Python.execute_batch("dspy.Predict", @qa, inputs, options) end)
      for _ <- 1..10, do: answer_one()
      assert_receive {:asked, _pid}, 30_000
      kill_worker(pool)
      answer_all(batch.pid)
      assert {:ok, results} = Task.await(batch, 120_000)
      assert length(results) == 40
      died = for {:error, %Error{kind: :worker_died} = error} <- results, do: error.details
      assert length(died) in 1..2
      # That is how many items of the part had begun.
      refute Enum.any?(died, &Map.has_key?(&1, "begun"))
      assert Enum.count(results, &match?({:ok, _prediction}, &1)) == 40 - length(died)
    end)
  end

  defp answer_one do
    assert_receive {:asked, model}, 30_000
    send(model, :go_on)
  end

  defp answer_all(batch) do
    receive do
      {:asked, model} ->
        send(model, :go_on)
        answer_all(batch)
    after
      100 -> if Process.alive?(batch), do: answer_all(batch)
    end
  end

  for {workers, size} <- [one: 1, two: 2] do
    @tag size: size
    test "in #{workers}, a batch that is cancelled ends, and asks nothing more", context do
      pool = if context.size == 1, do: start_pool!(), else: context.pool
      {batch, url} = begin_batch(pool, 200, 2)
      eventually(fn -> asked(url) >= 10 end)
      assert {:ok, count} = Python.cancel("stops", pool: pool)
      assert count > 0
      assert {:ok, results} = Task.await(batch, 120_000)
      assert length(results) == 200
      cancelled = for {:error, %Error{kind: :cancelled}} <- results, do: :cancelled
      assert length(cancelled) > 100
      assert asked(url) <= 200 - length(cancelled) + 8
      eventually(fn -> in_flight(pool) == 0 end)
    end
  end

  test "a batch that is cancelled after deaths of its only worker has one result for each item" do
    pool = start_pool!()

    capture_log(fn ->
      {batch, url} = begin_batch(pool, 60, 4)

      for count <- [8, 16] do
        eventually(fn -> asked(url) >= count end)
        kill_worker(pool)
      end

      eventually(fn -> asked(url) >= 24 end)
      eventually(fn -> match?({:ok, n} when n > 0, Python.cancel("stops", pool: pool)) end)
      assert {:ok, results} = Task.await(batch, 120_000)
      assert length(results) == 60
      assert Enum.any?(results, &match?({:error, %Error{kind: :cancelled}}, &1))
    end)
  end

  test "a stream that is cancelled while its reader waits begins nothing more", %{pool: pool} do
    options = [pool: pool, lm: {:elixir, &echo/1}, max_concurrency: 1, request_id: "paused"]
    inputs = for number <- 1..150, do: "Q#{number}"

    results =
      "dspy.Predict"
      |> Python.stream_batch(@qa, inputs, options)
      |> Enum.map(fn {index, result} ->
        if Process.get(:cancelled) == nil do
          eventually(fn -> in_flight(pool) == 0 end)
          Process.put(:cancelled, Python.cancel("paused", pool: pool))
        end

        {index, result}
      end)

    assert Process.get(:cancelled) == {:ok, 1}
    assert Enum.sort(Enum.map(results, &elem(&1, 0))) == Enum.to_list(0..149)
    # In this chunk, and in the next.
    assert Enum.count(results, &match?({_index, {:error, %Error{kind: :cancelled}}}, &1)) >= 130
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
  end

  # With a model of 100 ms, which counts what it is asked.
  defp begin_batch(pool, count, concurrency) do
    url = ModelServer.start!()

    options = [
      pool: pool,
      lm: ModelServer.model(url, "delay-100"),
      max_concurrency: concurrency,
      timeout: 120_000,
      request_id: "stops"
    ]

    inputs = for number <- 1..count, do: "Q#{number}"
    {Task.async(fn -> Python.execute_batch("dspy.Predict", @qa, inputs, options) end), url}
  end

  test "a wrong buffer is told before anything runs", %{pool: pool} do
    for batch <- [&Python.execute_batch/4, &Python.stream_batch/4] do
      assert_raise ArgumentError, ~r/expected :buffer from 1/, fn ->
        "dspy.Predict" |> batch.(@qa, ["a"], pool: pool, buffer: 0) |> Enum.to_list()
      end
    end
  end

  test "traces count items within the batch", %{pool: pool} do
    inputs = for number <- 1..12, do: "Q#{number}"
    options = [pool: pool, lm: {:elixir, &echo/1}, trace: true, max_concurrency: 1]
    {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs, options)
    spans = Python.trace(results).spans
    indexes = for %{"kind" => "item", "attributes" => %{"index" => index}} <- spans, do: index
    assert Enum.sort(indexes) == Enum.to_list(0..11)
  end

  defp asked(url), do: url |> ModelServer.keys() |> length()

  test "what is no list and no stream of inputs is an error" do
    # It was a Protocol.UndefinedError, and each pair of a map was an input.
    for inputs <- [nil, "Q?", 5, %{question: "Q?"}, {:a, 1}, [%{} | "Q?"]],
        stream <- [
          Python.stream_batch("dspy.Predict", "question -> answer", inputs),
          Python.stream_program_batch("p", inputs)
        ] do
      assert [{:error, %Error{kind: :input, path: "inputs", message: message}}] =
               Enum.to_list(stream)

      assert message =~ "expected a list or a stream of maps or texts at inputs, got "
    end
  end
end
