defmodule DSPex.Python.Call.Results do
  @moduledoc false

  # Converts Python's answers and events to what DSPex.Python returns.

  alias DSPex.{Prediction, Program}
  alias DSPex.Python.Error

  @doc """
  Returns the elements of `DSPex.Python.stream_batch/4` for one event; `offset` is the number of inputs of earlier chunks.
  """
  @spec batch_elements(tuple(), non_neg_integer()) :: [tuple()]
  def batch_elements({:event, %{"index" => index, "result" => result}}, offset),
    do: [{offset + index, batch_result(result)}]

  def batch_elements({:ok, _count}, _offset), do: []
  def batch_elements({:error, _error} = error, _offset), do: [error]

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
  Returns the result of one item of a batch.
  """
  @spec batch_result(term()) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def batch_result(%{"ok" => term}), do: {:ok, Prediction.from_term(term)}
  def batch_result(%{"error" => details}), do: {:error, Error.from_details(details)}
  def batch_result({:ok, term}), do: {:ok, Prediction.from_term(term)}

  def batch_result({:error, {:python_exception, details}}),
    do: {:error, Error.from_details(details)}

  @doc """
  Returns the report of an evaluation.
  """
  @spec evaluation(map()) :: map()
  def evaluation(report) do
    %{
      score: report["score"],
      count: report["count"],
      failed: report["failed"],
      total_tokens: report["total_tokens"],
      duration_ms: report["duration_ms"],
      results: Enum.map(report["results"], &scored/1)
    }
  end

  @doc """
  Returns the element of `DSPex.Python.stream_evaluate/4`.
  """
  @spec evaluation_element(tuple()) :: tuple()
  def evaluation_element({:event, %{"index" => index, "result" => result}}),
    do: {index, scored(result)}

  def evaluation_element({:ok, report}), do: {:ok, evaluation(report)}
  def evaluation_element({:error, _error} = error), do: error

  @doc """
  Returns the element of `DSPex.Python.stream_compile/3`.
  """
  @spec compile_element(tuple(), atom()) :: tuple()
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
  defp scored({:ok, %{"prediction" => term, "score" => score} = scored}) do
    feedback = Map.get(scored, "feedback")
    {:ok, %{prediction: Prediction.from_term(term), score: score, feedback: feedback}}
  end

  defp scored(%{"ok" => scored}), do: scored({:ok, scored})
  defp scored(failed), do: batch_result(failed)
end
