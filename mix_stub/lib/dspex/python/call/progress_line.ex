defmodule DSPex.Python.Call.ProgressLine do
  @moduledoc false

  # Implements the option `:progress` of long operations: a line on standard error that is redrawn, or a function.

  @redraw "\r\e[K"

  @doc """
  Reads a stream of `DSPex.Python.stream_compile/3` or `DSPex.Python.stream_evaluate/4` to its end, reports each element
  as `progress` says, and returns the last element. Raises for a wrong option.
  """
  @spec follow(Enumerable.t(), term()) :: term()
  def follow(stream, true) do
    {last, _counts} =
      Enum.reduce(stream, {nil, {0, 0, 0.0}}, fn element, {_last, counts} ->
        counts = count(element, counts)
        draw(element, counts)
        {element, counts}
      end)

    last
  end

  def follow(stream, function) when is_function(function, 1) do
    Enum.reduce(stream, nil, fn element, _last ->
      function.(element)
      element
    end)
  end

  def follow(_stream, other) do
    raise ArgumentError,
          "expected :progress to be a boolean or a function of 1 argument, got #{inspect(other)}"
  end

  # The counts are examples with a score, failed examples, and the sum of the scores.
  defp count({_index, {:ok, %{score: score}}}, {scored, failed, sum}),
    do: {scored + 1, failed, sum + score}

  defp count({index, {:error, _error}}, {scored, failed, sum}) when is_integer(index),
    do: {scored, failed + 1, sum}

  defp count(_other, counts), do: counts

  defp draw({:scored, scored}, _counts),
    do: write("compiling: #{scored.metric_calls} scored#{failed(scored.failures)}#{best(scored)}")

  defp draw({:candidate, candidate}, _counts) do
    write(
      "compiling: candidate #{candidate.number} has #{rounded(candidate.score)}#{best(candidate)}"
    )
  end

  defp draw({:program, program}, _counts) do
    end_with("compiled: version #{program.version}#{best(%{best_score: program.compiled.score})}")
  end

  defp draw({index, _result}, {scored, failed, sum}) when is_integer(index) do
    mean = if scored + failed > 0, do: 100 * sum / (scored + failed), else: 0.0
    write("evaluating: #{scored} scored#{failed(failed)}, #{rounded(mean)} so far")
  end

  defp draw({:ok, %{score: nil}}, _counts), do: end_with("evaluated: no examples")

  defp draw({:ok, evaluation}, _counts) do
    end_with(
      "evaluated: #{evaluation.count} examples#{failed(evaluation.failed)}, score #{rounded(evaluation.score)}"
    )
  end

  defp draw({:error, error}, _counts), do: end_with("failed: #{error.kind}")

  defp write(text), do: IO.write(:stderr, @redraw <> text)
  defp end_with(text), do: IO.puts(:stderr, @redraw <> text)

  defp failed(0), do: ""
  defp failed(count), do: ", #{count} failed"

  defp best(%{best_score: nil}), do: ""
  defp best(%{best_score: score}), do: ", best score #{rounded(score)}"

  defp rounded(score), do: :erlang.float_to_binary(score * 1.0, decimals: 1)
end
