defmodule DSPex.Python.Call.SpreadProgramTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.{Prediction, Python}
  alias DSPex.Python.{Error, ScriptedModel}
  alias DSPex.Python.Port.{Names, PendingCalls}

  setup_all do
    # They stand still for some time in these tests.
    pools = [
      one: start_pool!(heartbeat: false),
      two: start_pool!(size: 2, store: :run, heartbeat: false)
    ]

    assert Python.await_pools(Keyword.values(pools)) == :ok
    {:ok, pools}
  end

  # Answers with the question, and refuses the third one.
  defp model(pause) do
    {:elixir,
     fn request ->
       Process.sleep(pause)

       [_all, question] =
         Regex.run(~r/\[\[ ## question ## \]\]\n(.*)\n/, List.last(request.messages).content)

       if question == "Q3",
         do: {:error, {:auth, "no"}},
         else: %{
           text: ScriptedModel.written(answer: question),
           usage: %{input_tokens: 3, output_tokens: 2}
         }
     end}
  end

  defp examples(count),
    do: for(n <- 1..count, do: %{question: "Q#{n}", expected: "Q#{rem(n, 2)}"})

  defp inputs(count), do: for(n <- 1..count, do: "Q#{n}")

  defp program!(pool, spec \\ []) do
    {:ok, program} = Python.create_program([signature: "question -> answer"] ++ spec, pool: pool)
    program
  end

  defp used(results) do
    for {:ok, prediction} <- results, uniq: true, do: prediction.meta["worker"]
  end

  test "in all workers a batch and an evaluation are what they are in one", %{one: one, two: two} do
    [expected, got] =
      for pool <- [one, two] do
        program = program!(pool)
        {:ok, batch} = Python.execute_program_batch(program, inputs(40), lm: model(10))

        streamed =
          program |> Python.stream_program_batch(inputs(40), lm: model(10)) |> Enum.sort()

        {:ok, evaluation} =
          Python.evaluate_program(program, examples(40), &(&1["expected"] == &2[:answer]),
            lm: model(10),
            failure_score: -1
          )

        scores =
          program
          |> Python.stream_evaluate(examples(40), "exact_match", lm: model(10))
          |> Enum.to_list()

        assert {:ok, last} = List.last(scores)
        every = batch ++ Enum.map(streamed, &elem(&1, 1)) ++ predictions(evaluation)

        assert length(used(every)) == if(pool == two, do: 2, else: 1)

        {Enum.map(batch, &shown/1), Enum.map(streamed, fn {at, one} -> {at, shown(one)} end),
         report(evaluation), report(last), length(scores)}
      end

    assert got == expected
  end

  defp predictions(%{results: results}),
    do: for({:ok, %{prediction: prediction}} <- results, do: {:ok, prediction})

  defp report(evaluation) do
    %{evaluation | results: Enum.map(evaluation.results, &shown/1)} |> Map.delete(:duration_ms)
  end

  defp shown({:ok, %Prediction{fields: fields}}), do: fields
  defp shown({:ok, %{prediction: prediction, score: score}}), do: {prediction.fields, score}
  defp shown({:error, %Error{} = error}), do: {error.kind, error.path, error.message}

  test "wrong calls have the errors that they have in one worker", %{one: one, two: two} do
    for {inputs, metric, options} <- [
          {["a", %{nope: 1}, 5, %URI{}], "exact_match", []},
          {["a", "b", "c"], "exact", max_concurrency: 0},
          {["a", "b"], "equals", failure_score: "none"},
          {["a", "b"], "equals", failure_scor: 1},
          {["a", "b"], %{check: :equals}, []},
          {[], "exact_match", []},
          {"no list", "exact_match", []}
        ] do
      [expected, got] =
        for pool <- [one, two] do
          program = program!(pool)
          batch_options = Keyword.delete(options, :failure_score)
          {batch(program, inputs, batch_options), evaluated(program, inputs, metric, options)}
        end

      assert got == expected
    end

    for pool <- [one, two] do
      options = [pool: pool]

      assert {:error, %Error{kind: :program_not_found}} =
               Python.execute_program_batch("nope", inputs(3), options)

      assert [{:error, %Error{kind: :program_not_found}}] =
               "nope" |> Python.stream_evaluate(examples(3), "equals", options) |> Enum.to_list()
    end
  end

  defp batch(program, inputs, options) do
    case Python.execute_program_batch(program, inputs, options) do
      {:ok, results} -> Enum.map(results, &shown/1)
      error -> shown(error)
    end
  end

  defp evaluated(program, inputs, metric, options) do
    case Python.evaluate_program(program, inputs, metric, options) do
      {:ok, evaluation} -> report(evaluation)
      error -> shown(error)
    end
  end

  test "a metric's own requests are counted over all workers", %{two: two} do
    judge = fn request ->
      reasoned = List.first(request.messages).content =~ "precision"
      judged = [reasoning: "r", precision: "1.0", recall: "1.0"]
      fields = if reasoned, do: judged, else: [answer: "x"]
      %{text: ScriptedModel.written(fields), usage: %{input_tokens: 3, output_tokens: 2}}
    end

    examples = for number <- 1..12, do: %{question: "Q#{number}", answer: "x"}
    options = [lm: {:elixir, judge}]

    assert {:ok, evaluation} =
             Python.evaluate_program(program!(two), examples, "semantic_f1", options)

    assert {evaluation.score, evaluation.failed} == {100.0, 0}
    assert {evaluation.metric_tokens, evaluation.total_tokens} == {60, 120}
  end

  # Their predictions and judges had been paid, and counted for nothing.
  test "tokens of examples that failed are counted as in one worker, and a warning names the first",
       %{
         one: one,
         two: two
       } do
    judge = fn request ->
      first = List.first(request.messages).content
      asked = List.last(request.messages).content

      fields =
        cond do
          not (first =~ "precision") -> [answer: "x"]
          asked =~ ~r/Q[37]\b/ -> [reasoning: "r"]
          true -> [reasoning: "r", precision: "1.0", recall: "1.0"]
        end

      %{text: ScriptedModel.written(fields), usage: %{input_tokens: 3, output_tokens: 2}}
    end

    examples = for number <- 1..12, do: %{question: "Q#{number}", answer: "x"}
    # Python does not know it.
    options = [lm: {:elixir, judge}, no_option_at_all: 1]

    [expected, got] =
      for pool <- [one, two] do
        {:ok, evaluation} =
          Python.evaluate_program(program!(pool), examples, "semantic_f1", options)

        Map.take(evaluation, [:failed, :total_tokens, :metric_tokens, :warnings])
      end

    assert got == expected
    assert %{failed: 2, warnings: [ignored, warning]} = got
    assert ignored =~ "no_option_at_all"
    assert warning =~ "2 of 12 examples failed; the first one, examples[2]: "

    # Twelve predictions, ten verdicts, and those that could not be read, for which the judge was asked once more or not.
    assert got.total_tokens == 60 + got.metric_tokens
    assert got.metric_tokens >= 60
  end

  test "scores that are not from 0 to 1 are a warning, the same from one worker and from two", %{
    one: one,
    two: two
  } do
    # The score was 350.0, and nothing said why.
    examples = for number <- 1..12, do: %{question: "Q#{number}", answer: "x"}
    said = "are not from 0 to 1, the first one that of examples["

    for {scores, parts} <- [
          {%{"Q3" => 7, "Q9" => -0.5, "Q5" => "none"},
           [
             "2 of 12 scores #{said}2], so that the score is no percentage",
             "1 of 12 examples failed"
           ]},
          {%{"Q3" => 0, "Q9" => 1.0, "Q5" => true}, []}
        ],
        pool <- [one, two] do
      metric = fn %{"question" => question}, _prediction -> Map.get(scores, question, 0.5) end
      {:ok, evaluation} = Python.evaluate_program(program!(pool), examples, metric)
      assert length(evaluation.warnings) == length(parts)

      for {warning, part} <- Enum.zip(evaluation.warnings, parts),
          do: assert(String.starts_with?(warning, part))
    end
  end

  test "what only its own worker knows stays there", %{two: two} do
    key =
      {:openai,
       model: "m", api_key: "sk-only-here-1234", api_base: "http://127.0.0.1:9", num_retries: 0}

    for spec <- [[history: true], [modules: [%{module: "dspy.Predict", name: "a", lm: key}]]] do
      program = program!(two, spec)
      options = if spec[:history], do: [conversation: "c", lm: model(10)], else: [lm: model(10)]
      assert {:ok, results} = Python.execute_program_batch(program, inputs(20), options)
      assert length(used(results)) <= 1
      assert {:ok, %{"portable" => portable?}} = Python.describe_program(program)
      assert portable? == (spec[:history] == true)
    end
  end

  test "all parts of a batch run the version that is the newest at its start", %{two: two} do
    %{id: id} = program = program!(two)
    examples = [%{question: "Q1", answer: "Q1"}]
    compile = [optimizer: "dspy.LabeledFewShot"]

    results =
      id
      |> Python.stream_program_batch(inputs(200), pool: two, lm: model(10), max_concurrency: 4)
      |> Stream.each(fn {index, _result} ->
        if index == 0,
          do: assert({:ok, %{version: 2}} = Python.compile_program(program, examples, compile))
      end)
      |> Enum.to_list()

    assert length(results) == 200
    assert {:ok, %{"version" => 2}} = Python.describe_program(id, pool: two)

    versions =
      for {_index, {:ok, prediction}} <- results, uniq: true, do: prediction.meta["version"]

    assert versions in [[1], [nil]]
  end

  test "a part whose worker dies is begun again in another" do
    pool = start_pool!(size: 2, store: :run)
    assert Python.await_pools([pool]) == :ok
    program = program!(pool)
    killed = :counters.new(1, [])

    scores =
      program
      |> Python.stream_evaluate(examples(200), "exact_match", lm: model(5), timeout: 120_000)
      |> Stream.each(fn
        {_index, {:ok, scored}} ->
          if :counters.get(killed, 1) == 0 do
            :counters.add(killed, 1, 1)
            signal_process(scored.prediction.meta["pid"], "KILL")
          end

        _other ->
          :ok
      end)
      |> Enum.to_list()

    assert {:ok, evaluation} = List.last(scores)
    assert evaluation.count == 200
    assert length(scores) == 201
  end

  test "the time of a batch counts once, also while no worker answers what the program is", %{
    one: one,
    two: two
  } do
    for pool <- [one, two] do
      program = program!(pool)
      {:ok, metrics} = Python.metrics(pool: pool)
      pids = for worker <- metrics["workers"], do: worker["pid"]
      for pid <- pids, do: signal_process(pid, "STOP")
      began = System.monotonic_time(:millisecond)
      result = Python.execute_program_batch(program, inputs(3), timeout: 4_000)
      took = System.monotonic_time(:millisecond) - began
      for pid <- pids, do: signal_process(pid, "CONT")
      assert {:error, %Error{kind: :timeout}} = result
      # Less than twice.
      assert took < 7_900
    end
  end

  test "what is cancelled before it is known how it runs does not run", %{two: two} do
    test = self()

    lm =
      {:elixir,
       fn _request -> send(test, :asked) && %{text: ScriptedModel.written(answer: "A")} end}

    options = [lm: lm, timeout: 60_000, request_id: "early"]
    program = program!(two)
    # Only the worker in which it was made may run it.
    own = program!(two, lm: {:openai, model: "m", api_key: "sk-only-here-0123456789"})
    {:ok, metrics} = Python.metrics(pool: two)
    pids = for worker <- metrics["workers"], do: worker["pid"]

    ways = [
      fn -> Python.execute_program_batch(program, inputs(40), options) |> elem(1) end,
      fn -> Python.execute_program_batch(own, inputs(40), options) |> List.wrap() end,
      fn ->
        Python.evaluate_program(program, examples(40), "exact_match", options) |> results()
      end,
      fn -> program |> Python.stream_program_batch(inputs(40), options) |> results() end,
      fn ->
        program |> Python.stream_evaluate(examples(40), "exact_match", options) |> results()
      end
    ]

    for way <- ways do
      for pid <- pids, do: signal_process(pid, "STOP")
      batch = Task.async(way)
      eventually(fn -> in_flight(two) > 0 end)
      cancel = Task.async(fn -> Python.cancel("early", pool: two) end)
      refute Task.yield(cancel, 100)
      for pid <- pids, do: signal_process(pid, "CONT")
      assert {:ok, 1} = Task.await(cancel, 60_000)
      results = Task.await(batch, 60_000)
      assert length(results) in [1, 40]
      for result <- results, do: assert({:error, %Error{kind: :cancelled}} = result)
    end

    refute_received :asked
    assert {:ok, 0} = Python.cancel("early", pool: two)
  end

  defp in_flight(pool) do
    counts =
      for {_number, _owner, %{connection: connection}} <- Names.workers(pool),
          do: PendingCalls.count_of_callers(connection.pending_calls)

    Enum.sum(counts)
  end

  defp results({:ok, %{results: results}}), do: results
  defp results(elements), do: for({at, result} when is_integer(at) <- elements, do: result)
end
