# A conversation: a stored program with a history shows its model the earlier turns of the user who asks.
Code.require_file("support.exs", __DIR__)

model =
  Examples.model(fn request ->
    before = length(Regex.scan(~r/My name is Ada/, Examples.text(request)))

    answer =
      if before > 0 and Examples.text(request) =~ "What is my name", do: "Ada", else: "Hello!"

    Examples.written(answer: answer)
  end)

{:ok, program} = DSPex.Python.create_program(%{signature: "question -> answer", history: true})

for question <- ["My name is Ada.", "What is my name?"] do
  {:ok, prediction} =
    DSPex.Python.execute_program(program, question, lm: model, conversation: "user-42")

  IO.puts("#{question} #{prediction[:answer]}")
end

{:ok, _session} = DSPex.Python.close_session(program.session_id)
