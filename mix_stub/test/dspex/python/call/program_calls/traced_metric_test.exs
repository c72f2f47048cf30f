defmodule DSPex.Python.Call.ProgramCalls.TracedMetricTest do
  use ExUnit.Case, async: true

  alias DSPex.Python

  @examples [%{question: "a", answer: "x"}, %{question: "b", answer: "y"}]

  test "a metric of five arguments is given the trace and the predictor" do
    test = self()
    {:ok, program} = Python.create_program(signature: "question -> answer")

    metric = fn example, prediction, trace, pred_name, pred_trace ->
      send(
        test,
        {:judged, example["question"], prediction[:answer], trace, pred_name, pred_trace}
      )

      %{score: 0.0, feedback: "be short"}
    end

    options = [optimizer: "dspy.GEPA", max_metric_calls: 8, metric: metric, num_threads: 1]
    assert {:ok, _compiled} = Python.compile_program(program, @examples, options)
    assert_received {:judged, question, _answer, trace, "modules[0]" = name, [step]}

    assert %{"predictor" => ^name, "inputs" => %{"question" => ^question}, "outputs" => outputs} =
             step

    assert is_map_key(outputs, "answer")
    assert step in trace
  end

  test "a metric of three arguments has no trace in an evaluation" do
    {:ok, program} = Python.create_program(signature: "question -> answer")
    metric = fn _example, _prediction, trace -> if trace == nil, do: 1.0, else: 0.0 end
    assert {:ok, %{score: 100.0}} = Python.evaluate_program(program, @examples, metric)
  end
end
