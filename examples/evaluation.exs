# Evaluation: how often a program's answers are right, by a metric written in Elixir.
Code.require_file("support.exs", __DIR__)

examples = [
  %{question: "What is 2 + 2?", expected: "4"},
  %{question: "What is 7 * 6?", expected: "42"},
  %{question: "What is 9 - 10?", expected: "-1"}
]

model =
  Examples.model(fn request ->
    answer =
      if Examples.text(request) =~ "9 - 10",
        do: "1",
        else: if(Examples.text(request) =~ "7 * 6", do: "42", else: "4")

    Examples.written(answer: answer)
  end)

{:ok, program} = DSPex.Python.create_program(%{signature: "question -> answer"})

right? = fn %{"expected" => expected}, prediction -> prediction[:answer] == expected end
{:ok, evaluation} = DSPex.Python.evaluate_program(program, examples, right?, lm: model)

IO.puts("#{Float.round(evaluation.score, 1)} % of #{evaluation.count} are right")
{:ok, _session} = DSPex.Python.close_session(program.session_id)
