# The best of several attempts: a function of Elixir scores each.
Code.require_file("support.exs", __DIR__)

model =
  Examples.model([
    %{answer: "The capital of Belgium is Brussels."},
    %{answer: "Brussels"},
    %{answer: "It is Brussels, of course."}
  ])

one_word = fn _inputs, prediction ->
  if length(String.split(prediction[:answer])) == 1, do: 1.0, else: 0.0
end

{:ok, prediction} =
  DSPex.Python.execute_module(
    %{
      module: "dspy.BestOfN",
      N: 3,
      threshold: 1.0,
      reward: one_word,
      of: %{module: "dspy.Predict", signature: "question -> answer"}
    },
    nil,
    "What is the capital of Belgium?",
    lm: model
  )

IO.puts("Best: #{prediction[:answer]}")
