defmodule DSPex.Python.Call.ProgramCalls.EvaluationTest do
  use ExUnit.Case, async: true

  alias DSPex.Python
  alias DSPex.Python.{Error, ScriptedModel}

  @examples [
    %{question: "one", expected: "1"},
    %{question: "two", expected: "2"},
    %{question: "three", expected: "3"},
    %{question: "four", expected: "four"}
  ]

  # Answers the first two questions, and raises at the third.
  defp model do
    {:elixir,
     fn request ->
       [%{content: content}] = Enum.filter(request.messages, &(&1.role == "user"))

       cond do
         content =~ "one" -> answer("1")
         content =~ "two" -> answer("2")
         content =~ "three" -> {:error, {:auth, "no"}}
         true -> answer("4")
       end
     end}
  end

  defp answer(text) do
    %{
      text: ScriptedModel.written(answer: text),
      usage: %{input_tokens: 3, output_tokens: 2}
    }
  end

  setup do
    {:ok, program} =
      Python.create_program(signature: "question -> answer", modules: ["dspy.Predict"])

    {:ok, program: program}
  end

  test "the error of a metric is of its stage", %{program: program} do
    for metric <- [
          fn _example, _prediction -> raise "no" end,
          fn _example, _prediction -> "high" end
        ] do
      {:ok, %{results: [{:error, error} | _others]}} =
        Python.evaluate_program(program, Enum.take(@examples, 1), metric, lm: model())

      assert {error.kind, error.stage, error.path} == {:tool, "metric", "opts.metric"}
    end
  end

  test "the metric is an argument, not an option" do
    for evaluate <- [&Python.evaluate_program/3, &Python.stream_evaluate/3] do
      assert_raise ArgumentError, ~r/third argument .*examples, "exact_match"\)/, fn ->
        evaluate.("p", [], metric: "exact_match")
      end
    end
  end

  test "scores each example with a function, and computes the total score", %{program: program} do
    metric = fn %{"question" => _question, "expected" => expected}, prediction ->
      if prediction[:answer] == expected, do: 1, else: 0.5
    end

    assert {:ok, evaluation} = Python.evaluate_program(program, @examples, metric, lm: model())

    assert [{:ok, first}, {:ok, second}, {:error, %Error{kind: :auth}}, {:ok, fourth}] =
             evaluation.results

    assert first.prediction[:answer] == "1"
    assert [first.score, second.score, fourth.score] == [1.0, 1.0, 0.5]
    assert {evaluation.count, evaluation.failed} == {4, 1}
    assert evaluation.score == 100 * (1 + 1 + 0 + 0.5) / 4
    assert evaluation.total_tokens == 15
    assert evaluation.duration_ms > 0

    assert ["1 of 4 examples failed; the first one, examples[2]: " <> _message] =
             evaluation.warnings
  end

  # Their predictions had been paid, and counted for nothing; and nothing but the results said that all had failed.
  test "counts the tokens of examples whose metric failed, and says so", %{program: program} do
    metric = fn _example, _prediction -> raise "no" end
    examples = Enum.take(@examples, 2)
    assert {:ok, evaluation} = Python.evaluate_program(program, examples, metric, lm: model())
    assert {evaluation.score, evaluation.failed, evaluation.total_tokens} == {0.0, 2, 10}

    {:error, %{details: %{"usage" => usage}}} = List.first(evaluation.results)
    assert [%{"total_tokens" => 5}] = Map.values(usage)

    assert ["2 of 2 examples failed; the first one, examples[0]: " <> message] =
             evaluation.warnings

    assert message =~ "no"
  end

  test "takes a check instead of a function, and another score for failures", %{program: program} do
    check = %{check: :equals, field: :answer, input: :expected}
    options = [lm: model(), failure_score: 1]
    assert {:ok, evaluation} = Python.evaluate_program(program, @examples, check, options)
    assert evaluation.score == 75.0
  end

  test "named metrics compare the first output with the example's field of that name" do
    {:ok, program} = Python.create_program("question -> answer")
    examples = [%{question: "one", answer: "The 1!"}, %{question: "two", answer: "2 of them"}]

    for {metric, scores} <- [
          {"exact_match", [1.0, 0.0]},
          {:f1, [1.0, 0.5]},
          {%{check: :f1, field: :answer, input: :answer}, [1.0, 0.5]},
          {"equals", [0.0, 0.0]}
        ] do
      assert {:ok, evaluation} = Python.evaluate_program(program, examples, metric, lm: model())

      assert scores == for({:ok, %{score: score}} <- evaluation.results, do: score)
    end
  end

  test "semantic F1 uses the model as the judge" do
    {:ok, program} = Python.create_program("question -> answer")
    test = self()

    judge = fn request ->
      if ScriptedModel.text(request) =~ "recall" do
        send(test, {:judged, ScriptedModel.text(request)})
        ScriptedModel.written(reasoning: "r", recall: "0.5", precision: "1.0")
      else
        ScriptedModel.written(answer: "Lisbon")
      end
    end

    examples = [%{question: "Capital?", answer: "Lisbon, in Portugal"}]
    options = [lm: {:elixir, judge}]

    assert {:ok, evaluation} = Python.evaluate_program(program, examples, "semantic_f1", options)

    assert_in_delta evaluation.score, 100 * 2 * 0.5 / 1.5, 0.001
    assert_received {:judged, text}
    assert text =~ "Lisbon, in Portugal"
  end

  test "a metric may return feedback with the score", %{program: program} do
    metric = fn _example, _prediction -> %{score: 0.25, feedback: "too short"} end
    assert {:ok, evaluation} = Python.evaluate_program(program, @examples, metric, lm: model())
    assert [{:ok, %{score: 0.25, feedback: "too short"}} | _others] = evaluation.results
  end

  test "a metric that fails is the error of its example", %{program: program} do
    metric = fn
      %{"question" => "one"}, _prediction -> raise "cannot say"
      %{"question" => "two"}, _prediction -> "good"
      _example, _prediction -> true
    end

    assert {:ok, evaluation} = Python.evaluate_program(program, @examples, metric, lm: model())

    assert [{:error, one}, {:error, two}, {:error, _auth}, {:ok, %{score: 1.0}}] =
             evaluation.results

    assert one.message =~ "cannot say"

    assert two.message =~
             ~s|expected a number, or a map with score and feedback, from the function at opts.metric, got "good"|

    assert evaluation.failed == 3
  end

  test "emits each score while it runs", %{program: program} do
    metric = fn %{"expected" => expected}, prediction -> prediction[:answer] == expected end
    elements = program |> Python.stream_evaluate(@examples, metric, lm: model()) |> Enum.to_list()
    assert {:ok, %{score: 50.0, count: 4}} = List.last(elements)
    results = for {index, result} when is_integer(index) <- elements, do: {index, result}

    assert [
             {0, {:ok, %{score: 1.0}}},
             {1, _second},
             {2, {:error, %Error{kind: :auth}}},
             {3, _last}
           ] = Enum.sort_by(results, &elem(&1, 0))

    drawn =
      ExUnit.CaptureIO.capture_io(:stderr, fn ->
        options = [lm: model(), progress: true]

        assert {:ok, %{score: 50.0}} =
                 Python.evaluate_program(program, @examples, metric, options)
      end)

    assert drawn =~ ~r/1 scored.*evaluated: 4 examples, 1 failed, score 50.0\n/s

    assert_raise ArgumentError, ~r/expected :progress/, fn ->
      Python.evaluate_program(program, @examples, metric, progress: "yes")
    end
  end

  test "takes the options of a batch", %{program: program} do
    endless = {:elixir, fn _request -> Process.sleep(:infinity) end}

    assert {:ok, evaluation} =
             Python.evaluate_program(program, @examples, fn _, _ -> 1 end,
               lm: endless,
               item_timeout: 2_000
             )

    assert Enum.all?(evaluation.results, &match?({:error, %Error{kind: :timeout}}, &1))
    assert evaluation.score == 0.0
    assert {:ok, %{score: nil, count: 0}} = Python.evaluate_program(program, [], fn _, _ -> 1 end)
  end

  test "errors name the mistake", %{program: program} do
    for {examples, metric, options, part} <- [
          {@examples, nil, [], "expected a function, a check such as"},
          {@examples, fn _example -> 1 end, [],
           "expected a function of 2 arguments at opts.metric"},
          {@examples, %{check: :equal, field: :answer, value: "a"}, [],
           ~s|did you mean "equals"|},
          {@examples, fn _, _ -> 1 end, [failure_score: :none], "opts.failure_score"},
          {"none", fn _, _ -> 1 end, [], "expected a list of maps"}
        ] do
      assert {:error, %Error{kind: :input} = error} =
               Python.evaluate_program(program, examples, metric, options)

      assert error.message =~ part
    end

    assert {:ok, evaluation} =
             Python.evaluate_program(program, ["text", %{qestion: "typo"}], fn _, _ -> 1 end)

    assert [{:error, %Error{kind: :input}}, {:error, %Error{kind: :input}}] = evaluation.results

    assert {:error, %Error{kind: :program_not_found}} =
             Python.evaluate_program("none", @examples, fn _, _ -> 1 end)
  end

  test "the error of a metric ends with a word, and says which keys there are", %{
    program: program
  } do
    words = Enum.map_join(1..100, " ", &"word#{&1}")

    for {metric, part} <- [
          {fn _, _ -> raise words end, ~r/ failed: word1 word2 .* word\d+…$/},
          {fn example, _ -> example.expected end,
           ~r/ failed: there is no key :expected, but "expected": maps from Python have strings as keys$/}
        ] do
      ExUnit.CaptureLog.capture_log(fn ->
        assert {:ok, %{results: [{:error, error} | _rest]}} =
                 Python.evaluate_program(program, @examples, metric, lm: model())

        assert error.message =~ part
      end)
    end
  end

  test "returns the same by JSON", %{program: program} do
    check = %{check: :equals, field: :answer, input: :expected}
    options = [lm: model(), serialization_format: :json]
    assert {:ok, evaluation} = Python.evaluate_program(program, @examples, check, options)

    assert [{:ok, %{score: 1.0}}, {:ok, _}, {:error, %Error{kind: :auth}}, {:ok, _}] =
             evaluation.results
  end
end
