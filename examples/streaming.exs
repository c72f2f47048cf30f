# Streaming: the pieces of a field's text while the model writes it.
Code.require_file("support.exs", __DIR__)

haiku = "An old silent pond / A frog jumps into the pond / Splash! Silence again."

model =
  Examples.model(fn _request ->
    %{haiku: haiku}
    |> Examples.written()
    |> String.graphemes()
    |> Enum.chunk_every(6)
    |> Stream.map(&Enum.join/1)
  end)

"dspy.Predict"
|> DSPex.Python.stream("topic -> haiku", "a pond", lm: model)
|> Enum.each(fn
  {:chunk, "haiku", text} -> IO.write(text)
  {:status, _status} -> :ok
  {:prediction, prediction} -> IO.puts("\n(#{String.length(prediction[:haiku])} characters)")
  {:error, error} -> IO.puts(error.message)
end)
