# Retrieval-augmented generation: a function of Elixir finds passages, and the answer is based on them.
Code.require_file("support.exs", __DIR__)

passages = [
  "The port of Lisbon lies on the estuary of the Tagus.",
  "An Erlang port starts a program of the operating system and exchanges bytes with it.",
  "The external term format is how the BEAM writes terms as bytes."
]

# Any search, such as a query of PostgreSQL. Here: the passages with the most words of the query.
words = fn text ->
  text |> String.downcase() |> String.split(~r/\W+/, trim: true) |> MapSet.new()
end

search = fn query, k ->
  passages
  |> Enum.sort_by(&(-MapSet.size(MapSet.intersection(words.(&1), words.(query)))))
  |> Enum.take(k)
end

question = "What does an Erlang port exchange with a program?"

model = Examples.model([%{reasoning: "The first passage says so.", response: "Bytes."}])

{:ok, found} =
  DSPex.Python.execute_module("dspy.Retrieve", nil, question, retriever: search, k: 2)

{:ok, prediction} =
  DSPex.Python.execute_module(
    "dspy.ChainOfThought",
    "context: list[str], question -> response",
    %{context: found[:passages], question: question},
    lm: model
  )

IO.inspect(found[:passages], label: "Passages")
IO.puts("Response: #{prediction[:response]}")
