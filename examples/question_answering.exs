# A question, answered step by step: dspy.ChainOfThought adds a field with the reasoning.
Code.require_file("support.exs", __DIR__)

model =
  Examples.model([
    %{reasoning: "Two dice have 36 outcomes; (1, 1) is one of them.", answer: "1/36"}
  ])

{:ok, prediction} =
  DSPex.Python.execute_module(
    "dspy.ChainOfThought",
    "question -> answer",
    "Two dice are tossed. What is the probability that the sum equals two?",
    lm: model
  )

IO.puts("Reasoning: #{prediction.reasoning}")
IO.puts("Answer: #{prediction[:answer]}")
