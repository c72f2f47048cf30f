defmodule DSPex.Python.Results do
  @moduledoc false

  # What Python's answers and events are in Elixir.

  alias DSPex.{Prediction, Program}
  alias DSPex.Python.Error

  @doc """
  The elements of `DSPex.Python.stream_batch/4` for one of its stream; `offset` is the number of inputs before.
  """
  @spec item(tuple(), non_neg_integer()) :: [tuple()]
  def item({:event, %{"index" => index, "result" => result}}, offset),
    do: [{offset + index, batch_result(result)}]

  def item({:ok, _count}, _offset), do: []
  def item({:error, _error} = error, _offset), do: [error]

  @doc """
  The element of `DSPex.Python.stream/4`.
  """
  @spec element(tuple()) :: tuple()
  def element({:event, %{"type" => "chunk", "field" => field, "text" => text}}),
    do: {:chunk, field, text}

  def element({:event, status}), do: {:status, Map.delete(status, "type")}
  def element({:ok, term}), do: {:prediction, Prediction.from_term(term)}
  def element({:error, error}), do: {:error, error}

  @doc """
  The result of one item of a batch.
  """
  @spec batch_result(term()) :: {:ok, Prediction.t()} | {:error, Error.t()}
  def batch_result(%{"ok" => term}), do: {:ok, Prediction.from_term(term)}
  def batch_result(%{"error" => details}), do: {:error, Error.from_details(details)}
  def batch_result({:ok, term}), do: {:ok, Prediction.from_term(term)}

  def batch_result({:error, {:python_exception, details}}),
    do: {:error, Error.from_details(details)}

  @doc """
  The report of an evaluation.
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
  The result of one example of an evaluation.
  """
  @spec scored(term()) :: {:ok, map()} | {:error, Error.t()}
  def scored({:ok, %{"prediction" => term, "score" => score} = scored}) do
    feedback = Map.get(scored, "feedback")
    {:ok, %{prediction: Prediction.from_term(term), score: score, feedback: feedback}}
  end

  def scored(%{"ok" => scored}), do: scored({:ok, scored})
  def scored(failed), do: batch_result(failed)

  @doc """
  The element of `DSPex.Python.stream_compile/3`.
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
end
