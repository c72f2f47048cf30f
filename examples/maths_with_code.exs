# Mathematics: the model writes a program, which runs in a sandbox; its result is the answer.
Code.require_file("support.exs", __DIR__)

model =
  Examples.model([
    %{
      reasoning: "A loop over the numbers.",
      generated_code:
        "total = sum(n for n in range(1000) if n % 3 == 0 or n % 5 == 0)\nSUBMIT({'answer': total})"
    },
    %{reasoning: "The program says so.", answer: 233_168}
  ])

{:ok, prediction} =
  DSPex.Python.execute_module(
    "dspy.ProgramOfThought",
    "question -> answer: int",
    "What is the sum of all multiples of 3 or 5 below 1000?",
    lm: model,
    timeout: 60_000
  )

IO.puts("Answer: #{prediction[:answer]}")
