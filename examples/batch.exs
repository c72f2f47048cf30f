# Many inputs concurrently: each result comes as soon as it is ready, with the index of its input.
Code.require_file("support.exs", __DIR__)

words = ["port", "term", "atom", "binary"]

model =
  Examples.model(fn request ->
    [_all, word] =
      Regex.run(
        ~r/\[\[ ## word ## \]\]\s+(\w+)/,
        Examples.text(request) |> String.split("Your input") |> List.last()
      )

    Examples.written(letters: String.length(word))
  end)

"dspy.Predict"
|> DSPex.Python.stream_batch("word -> letters: int", Stream.map(words, &%{word: &1}),
  lm: model,
  max_concurrency: 2
)
|> Enum.sort()
|> Enum.each(fn
  {index, {:ok, prediction}} -> IO.puts("#{Enum.at(words, index)}: #{prediction[:letters]}")
  {index, {:error, error}} -> IO.puts("#{Enum.at(words, index)}: #{error.message}")
end)
