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

  test "a batch whose only worker dies goes on with what has no result yet" do
    pool = start_pool!()
    url = ModelServer.start!()
    model = ModelServer.model(url, "delay-100")
    inputs = for number <- 1..40, do: "Q#{number}"
    options = [pool: pool, lm: model, max_concurrency: 4, timeout: 120_000]

    capture_log(fn ->
      batch = Task.async(fn -> Python.execute_batch("dspy.Predict", @qa, inputs, options) end)
      eventually(fn -> asked(url) >= 20 end)
      kill_worker(pool)
      assert {:ok, results} = Task.await(batch, 120_000)
      assert length(results) == 40
      for result <- results, do: assert({:ok, _prediction} = result)
      # Only those that were in flight are asked again.
      assert asked(url) in 40..44
    end)
  end

  defp asked(url), do: url |> ModelServer.keys() |> length()
end
