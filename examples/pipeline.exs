# Several stages: an outline, then a text that follows it. Each stage has a name and its own inputs.
Code.require_file("support.exs", __DIR__)

model =
  Examples.model([
    %{sections: ["What a port is", "What it costs"]},
    %{reasoning: "Two sections.", article: "A port starts a program. It costs one process."}
  ])

{:ok, program} =
  DSPex.Python.create_program(%{
    modules: [
      %{name: "outline", module: "dspy.Predict", signature: "topic -> sections: list[str]"},
      %{
        name: "draft",
        module: "dspy.ChainOfThought",
        signature: "topic, plan: list[str] -> article",
        inputs: %{plan: "outline.sections"}
      }
    ]
  })

{:ok, prediction} = DSPex.Python.execute_program(program, %{topic: "Erlang ports"}, lm: model)
IO.puts("Sections: #{Enum.join(prediction[:sections], ", ")}")
IO.puts("Article: #{prediction[:article]}")
{:ok, _session} = DSPex.Python.close_session(program.session_id)
