# Optimising with MIPROv2: a model proposes instructions; trials find the best instructions and demos.
Code.require_file("support.exs", __DIR__)

examples =
  for {a, b} <- [{2, 3}, {4, 4}, {7, 1}, {5, 9}, {8, 6}, {3, 3}, {9, 2}, {6, 5}],
      do: %{question: "What is #{a} plus #{b}?", answer: "#{a + b}"}

# Without DSPEX_MODEL: answers with the bare number only if the instructions say so.
model =
  Examples.model(fn request ->
    text = Examples.text(request)

    cond do
      text =~ "## proposed_instruction ##" ->
        Examples.written(proposed_instruction: "Add up, and give the number alone.")

      text =~ "## observations ##" ->
        Examples.written(observations: "Sums of two numbers.", summary: "Sums.")

      text =~ "## program_description ##" ->
        Examples.written(program_description: "Adds up.", module_description: "Adds up.")

      text =~ "## summary ##" ->
        Examples.written(summary: "Sums.")

      true ->
        asked = text |> String.split("[[ ## question ## ]]") |> List.last()
        numbers = for [digits] <- Regex.scan(~r/\d+/, asked), do: String.to_integer(digits)
        [a, b] = Enum.take(numbers, 2)
        answer = if text =~ "number alone", do: "#{a + b}", else: "It is #{a + b}, I think."
        Examples.written(answer: answer)
    end
  end)

{:ok, program} = DSPex.Python.create_program("question -> answer")

{:ok, better} =
  DSPex.Python.compile_program(program, examples,
    optimizer: "dspy.MIPROv2",
    num_candidates: 3,
    num_trials: 4,
    max_bootstrapped_demos: 0,
    max_labeled_demos: 0,
    metric: "exact_match",
    lm: model,
    # In IEx or a terminal, `progress: true` draws a line of progress.
    progress: fn
      {:candidate, candidate} -> IO.puts("Candidate #{candidate.number}: #{candidate.score}")
      _scored -> :ok
    end
  )

{:ok, %{"learned" => learned}} = DSPex.Python.describe_program(better)
for {_predictor, known} <- learned, do: IO.puts("Instructions: #{known["instructions"]}")
IO.puts("Score: #{better.compiled.score}")
{:ok, _session} = DSPex.Python.close_session(program.session_id)
