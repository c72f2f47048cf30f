# Optimising with GEPA: a model reads the feedback of a metric written in Elixir, and writes better instructions.
Code.require_file("support.exs", __DIR__)

examples =
  for {city, country} <- [Lisbon: "Portugal", Paris: "France", Rome: "Italy", Vienna: "Austria"],
      do: %{question: "Where is #{city}?", answer: country}

# Without DSPEX_MODEL: answers in one word once the instructions say so.
model =
  Examples.model(fn request ->
    text = Examples.text(request)
    asked = text |> String.split("[[ ## question ## ]]") |> List.last()
    known = Enum.find(examples, &(asked =~ &1.question))

    cond do
      text =~ "examples_with_feedback" ->
        ~s|{"new_instruction": "Name the country, in one word."}|

      text =~ "in one word" ->
        Examples.written(answer: known.answer)

      true ->
        Examples.written(answer: "It is in #{known.answer}.")
    end
  end)

metric = fn %{"answer" => expected}, prediction ->
  words = prediction[:answer] |> String.split() |> length()

  cond do
    not String.contains?(prediction[:answer], expected) ->
      %{score: 0, feedback: "#{expected} is right"}

    words > 1 ->
      %{score: 0.2, feedback: "#{words} words, where one is enough"}

    true ->
      %{score: 1, feedback: "good"}
  end
end

{:ok, program} = DSPex.Python.create_program("question -> answer")
{:ok, before} = DSPex.Python.evaluate_program(program, examples, metric, lm: model)

{:ok, better} =
  DSPex.Python.compile_program(program, examples,
    optimizer: "dspy.GEPA",
    max_metric_calls: 40,
    metric: metric,
    lm: model
  )

{:ok, now} = DSPex.Python.evaluate_program(better, examples, metric, lm: model)
{:ok, %{"learned" => learned}} = DSPex.Python.describe_program(better)
for {_predictor, known} <- learned, do: IO.puts("Instructions: #{known["instructions"]}")
IO.puts("Score: #{before.score}, then #{now.score}")
{:ok, _session} = DSPex.Python.close_session(program.session_id)
