defmodule DSPex.Python.CompileProgress do
  @moduledoc false

  # Where the progress of a compilation goes.

  @doc """
  Gives the function that is told of each element of `DSPex.Python.stream_compile/3`; raises for a wrong option.
  """
  @spec teller!(term()) :: (term() -> term())
  def teller!(true), do: &draw/1
  def teller!(function) when is_function(function, 1), do: function

  def teller!(other) do
    raise ArgumentError,
          "expected :progress to be a boolean or a function of 1 argument, got #{inspect(other)}"
  end

  # One line on standard error, which is drawn anew each time.
  defp draw({:scored, scored}),
    do: write("compiling: #{scored.metric_calls} scored#{failed(scored)}#{best(scored)}")

  defp draw({:candidate, candidate}) do
    write(
      "compiling: candidate #{candidate.number} has #{rounded(candidate.score)}#{best(candidate)}"
    )
  end

  defp draw({:program, program}) do
    IO.puts(
      :stderr,
      "\r\e[Kcompiled: version #{program.version}#{best(%{best_score: program.compiled.score})}"
    )
  end

  defp draw({:error, error}), do: IO.puts(:stderr, "\r\e[Knot compiled: #{error.kind}")

  defp write(text), do: IO.write(:stderr, "\r\e[K" <> text)

  defp failed(%{failures: 0}), do: ""
  defp failed(%{failures: count}), do: ", #{count} failed"

  defp best(%{best_score: nil}), do: ""
  defp best(%{best_score: score}), do: ", best score #{rounded(score)}"

  defp rounded(score), do: :erlang.float_to_binary(score * 1.0, decimals: 1)
end
