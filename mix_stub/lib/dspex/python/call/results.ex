defmodule DSPex.Python.Call.Results do
  @moduledoc false

  # Converts Python's answers and events to what DSPex.Python returns.

  alias DSPex.{Prediction, Program}
  alias DSPex.Python.Call.StructHints
  alias DSPex.Python.{Cluster, Error}

  @doc """
  Returns the elements of `DSPex.Python.stream_batch/4` for one event of the call with these inputs; `offset` is the number of
  inputs of earlier calls.
  """
  @spec batch_elements(tuple(), term(), non_neg_integer()) :: [tuple()]
  def batch_elements({:event, %{"index" => index, "result" => result}}, inputs_list, offset),
    do: [{offset + index, batch_result(result, inputs_list, index)}]

  def batch_elements({:ok, _count}, _inputs_list, _offset), do: []
  def batch_elements({:error, _error} = error, _inputs_list, _offset), do: [error]

  @doc """
  Returns the element of `DSPex.Python.stream/4`.
  """
  @spec stream_element(tuple()) :: tuple()
  def stream_element({:event, %{"type" => "chunk", "field" => field, "text" => text}}),
    do: {:chunk, field, text}

  def stream_element({:event, status}), do: {:status, Map.delete(status, "type")}
  def stream_element({:ok, term}), do: {:prediction, Prediction.from_term(term)}
  def stream_element({:error, error}), do: {:error, error}

  @doc """
  Returns the results of a batch with these inputs.
  """
  @spec batch_results([term()], term()) :: [{:ok, Prediction.t()} | {:error, Error.t()}]
  def batch_results(terms, inputs_list),
    do: Enum.with_index(terms, fn term, index -> batch_result(term, inputs_list, index) end)

  defp batch_result(term, inputs_list, index),
    do: term |> batch_result() |> StructHints.explain_at(inputs_list, index)

  defp batch_result(%{"ok" => term}), do: {:ok, Prediction.from_term(term)}
  defp batch_result(%{"error" => details}), do: {:error, Error.from_details(details)}
  defp batch_result({:ok, term}), do: {:ok, Prediction.from_term(term)}

  defp batch_result({:error, {:python_exception, details}}),
    do: {:error, Error.from_details(details)}

  @doc """
  Returns the report of an evaluation with these examples.
  """
  @spec evaluation(map(), term()) :: map()
  def evaluation(report, examples) do
    %{
      score: report["score"],
      count: report["count"],
      failed: report["failed"],
      total_tokens: report["total_tokens"],
      metric_tokens: report["metric_tokens"],
      duration_ms: report["duration_ms"],
      warnings: report["warnings"],
      results: Enum.with_index(report["results"], &scored(&1, examples, &2))
    }
    |> with_trace(report["trace"])
  end

  defp with_trace(evaluation, nil), do: evaluation
  defp with_trace(evaluation, trace), do: Map.put(evaluation, :trace, trace)

  @doc """
  Returns the element of `DSPex.Python.stream_evaluate/4`.
  """
  @spec evaluation_element(tuple(), term()) :: tuple()
  def evaluation_element({:event, %{"index" => index, "result" => result}}, examples),
    do: {index, scored(result, examples, index)}

  def evaluation_element({:ok, report}, examples), do: {:ok, evaluation(report, examples)}
  def evaluation_element({:error, _error} = error, _examples), do: error

  @doc """
  Returns the element of `DSPex.Python.stream_compile/3`.
  """
  @spec compile_element(tuple(), Cluster.pool()) :: tuple()
  def compile_element({:event, %{"type" => "scored"} = event}, _pool) do
    {:scored,
     %{
       score: event["score"],
       metric_calls: event["metric_calls"],
       failures: event["failures"],
       best_score: event["best_score"]
     }}
  end

  def compile_element({:event, %{"type" => "candidate"} = event}, _pool) do
    {:candidate,
     %{number: event["number"], score: event["score"], best_score: event["best_score"]}}
  end

  def compile_element({:ok, term}, pool), do: {:program, Program.from_term(term, pool)}
  def compile_element({:error, _error} = error, _pool), do: error

  # Returns the result of one example of an evaluation.
  defp scored({:ok, %{"prediction" => term, "score" => score} = scored}, _examples, _index) do
    feedback = Map.get(scored, "feedback")
    {:ok, %{prediction: Prediction.from_term(term), score: score, feedback: feedback}}
  end

  defp scored(%{"ok" => scored}, examples, index), do: scored({:ok, scored}, examples, index)
  defp scored(failed, examples, index), do: batch_result(failed, examples, index)
end
